"""scikit-learn: a pipeline and its calibrator, fitted together on the same rows.

    python examples/train_sklearn.py [--data digits]

`CalibratedClassifier` needs no validation rows: it fits one calibrator to the scores of five folds, each by a
model that did not see them, and the model once more to all rows. Weights and grids go through it as usual.
"""

import warnings

from images import arguments, flat, load, report
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from focalcal import CalibratedClassifier


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(epochs=20)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is the point
    images = load(options.data, options.folder, options.rows)
    x, y = flat(images.x_train, images.x_val), flat(images.y_train, images.y_val)

    network = MLPClassifier((64,), max_iter=options.epochs, random_state=options.seed)
    model = CalibratedClassifier(make_pipeline(StandardScaler(), network), cv=5).fit(x, y)

    print(model.calibrator_)
    x_test = flat(images.x_test)
    report(images.y_test, model.estimator_.predict_log_proba(x_test), model.predict_log_proba(x_test))


if __name__ == "__main__":
    main()
