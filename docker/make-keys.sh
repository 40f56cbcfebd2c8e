#!/bin/sh
# Throw-away keys for the demo: make-keys.sh NODE_DIR TRAINER_DIR
#
#   NODE_DIR/server/feeder.key, feeder.key_secret     who the nodes are       (serve --keys)
#   NODE_DIR/clients/client.key                       whom they let in        (serve --authorized-clients)
#   TRAINER_DIR/client.key_secret                     who the trainer is      (keys=)
#   TRAINER_DIR/feeder.key                            whom it believes        (server_key=)
#
# Each side gets its own secret and the other side's public key, and no more.
set -eu

node=$1
trainer=$2
if [ -f "$trainer/feeder.key" ]; then # written last, so the set is complete
    echo "keys: kept those of an earlier run"
    exit 0
fi

umask 077
fresh=$(mktemp -d)
trap 'rm -r "$fresh"' EXIT
feeder-server keygen "$fresh/server" --name feeder
feeder-server keygen "$fresh/client" --name client

mkdir -p "$node/server" "$node/clients" "$trainer"
cp "$fresh/server/feeder.key" "$fresh/server/feeder.key_secret" "$node/server/"
cp "$fresh/client/client.key" "$node/clients/"
cp "$fresh/client/client.key_secret" "$trainer/"
cp "$fresh/server/feeder.key" "$trainer/"
echo "keys: made a pair for the nodes and a pair for the trainer"
