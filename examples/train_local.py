"""Train with a private server on this machine: its workers import the classes in augment_sequence.py.

    python examples/train_local.py

The server starts with `FeederSequence.local` and ends with the `with` block. On Windows, too, no main guard is needed.
"""

from pathlib import Path

import keras

from feeder_client import FeederSequence

data = Path(__file__).with_name("augment_sequence.py")

model = keras.Sequential(
    [
        keras.Input((32, 32, 1)),
        keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", metrics=["accuracy"])

with (
    FeederSequence.local(f"{data}:Train", workers=2, args={"batch_size": 32}) as train,
    FeederSequence.local(f"{data}:Val", workers=1) as val,
):
    model.fit(train, validation_data=val, epochs=4, verbose=2)
    print(train.verdict())
