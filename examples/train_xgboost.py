"""XGBoost: focal loss as the objective, its raw scores mapped back to probabilities.

    python examples/train_xgboost.py [--data digits]

Softmax of the raw scores is what XGBoost itself would say, and not sure enough. The map of the same γ needs
no further rows; a calibrator of validation rows finds γ and a temperature, and so allows for over- and
underfitting too. LightGBM is the same with FocalObjective(2.0, "lightgbm") and raw_score=True.
"""

from images import arguments, flat, load, report
from xgboost import XGBClassifier

import focalcal
from focalcal.integrations.boosting import FocalObjective


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(epochs=30)
    options = parser.parse_args()
    images = load(options.data, options.folder, options.rows)
    objective = FocalObjective(gamma=2.0)
    model = XGBClassifier(
        objective=objective,
        n_estimators=options.epochs,
        learning_rate=0.3,
        max_depth=4,
        min_child_weight=0.1,  # focal loss has smaller second derivatives than cross-entropy
        colsample_bytree=0.2,
        random_state=options.seed,
    )
    model.fit(flat(images.x_train), flat(images.y_train))

    def raw_scores(x):
        return model.predict(flat(x), output_margin=True)

    scores = raw_scores(images.x_test)
    print(f"after the map\n{focalcal.evaluate(flat(images.y_test), objective.predict_proba(scores))}\n")
    calibrator = focalcal.FocalTemperatureScaling().fit(raw_scores(images.x_val), flat(images.y_val))
    print(calibrator)
    report(images.y_test, scores, calibrator.transform(scores))


if __name__ == "__main__":
    main()
