"""Calibrate a scikit-learn classifier and see with error bars what it brought.

    python examples/calibrate_digits.py [--figure docs/reliability.png]

A small network learns 150 handwritten digits by heart and is too sure of the others. Half of those fit a
calibrator, the other half judge it.
"""

import argparse
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import focalcal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figure", help="write the two reliability diagrams here (needs matplotlib)")
    arguments = parser.parse_args()

    X, y = load_digits(return_X_y=True)
    X_train, X_rest, y_train, y_rest = train_test_split(X, y, train_size=150, random_state=0, stratify=y)
    X_val, X_test, y_val, y_test = train_test_split(X_rest, y_rest, train_size=0.5, random_state=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # learnt by heart: that is the point
        model = MLPClassifier(
            (64, 64), alpha=0, max_iter=600, tol=0, n_iter_no_change=600, random_state=0
        ).fit(X_train, y_train)

    def log_probs(rows: np.ndarray) -> np.ndarray:
        return model.predict_log_proba(rows)  # a softmax's logits up to a constant a row

    calibrator = focalcal.FocalTemperatureScaling().fit(log_probs(X_val), y_val)
    print(calibrator, "\n")

    before = focalcal.evaluate(y_test, log_probs(X_test), input="logits")
    after = focalcal.evaluate(y_test, calibrator.transform(log_probs(X_test)), input="logits")
    print(f"before\n{before}\n\nafter\n{after}")

    if arguments.figure:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 2, figsize=(9, 5.2), layout="constrained")
        focalcal.ReliabilityDisplay.from_evaluation(before, name="before", ax=axes[0])
        focalcal.ReliabilityDisplay.from_evaluation(after, name="after focal temperature scaling", ax=axes[1])
        figure.savefig(arguments.figure, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
