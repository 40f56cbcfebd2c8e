"""The demo's training script: a small Keras model on batches that nodes make elsewhere.

Where they are is told by the environment, so that the script is the same here and there:

    FEEDER_ENDPOINTS    endpoints of the nodes, with commas between; default tcp://127.0.0.1:5555
    FEEDER_KEYS         the trainer's secret key file, and
    FEEDER_SERVER_KEY   the nodes' public key file; both unset: no keys, for nodes on this machine only
    FEEDER_EPOCHS       default 3
"""
# ruff: noqa: T201

from __future__ import annotations

import os
import time

import keras

from feeder_client import FeederSequence


def build_model(classes: int = 5) -> keras.Model:
    """A small convolutional network for 64 x 64 images; some seconds per epoch on a CPU."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Train, and say in one last line how it went."""
    endpoints = os.environ.get("FEEDER_ENDPOINTS", "tcp://127.0.0.1:5555").split(",")
    keys = os.environ.get("FEEDER_KEYS")
    server_key = os.environ.get("FEEDER_SERVER_KEY")
    epochs = int(os.environ.get("FEEDER_EPOCHS", "3"))

    keras.utils.set_random_seed(0)
    print(f"training on {', '.join(endpoints)}")
    with (
        FeederSequence(endpoints, source="train", keys=keys, server_key=server_key) as train,
        FeederSequence(endpoints, source="val", keys=keys, server_key=server_key) as val,
    ):
        started = time.monotonic()
        history = build_model().fit(train, validation_data=val, epochs=epochs, verbose=2)
        seconds = time.monotonic() - started
        print(train.verdict())
        batches = epochs * (len(train) + len(val))

    accuracy = history.history["val_accuracy"][-1]
    print(
        f"demo finished: {epochs} epochs, {batches} batches from {len(endpoints)} node(s) "
        f"in {seconds:.1f} s, validation accuracy {accuracy:.2f}"
    )


if __name__ == "__main__":
    main()
