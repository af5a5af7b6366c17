"""What the heads of tables mean: said where somebody points at the `?` beside them."""

MEANINGS = {
    "Before": "The metric of the untouched model.",
    "After": "The metric after training, mean of the seeds.",
    "Best partner": "Best: one partner stands out with 95%. Tie: several cannot be told apart; the "
    "numbers are those of the first.",
    "Verdict": "Improves: net Δ and Δ are above 0. Better than alone: net Δ is, Δ may be 0. Loses "
    "less: the model still ends below where it began. Harmed: net Δ is below 0. All with q < 0.05.",
    "Net Δ": "Δ less the control's, seed by seed: what is due to the partner. Bold: q < 0.05.",
    "Net Δ around 0": "Net Δ with its 95% interval; filled where q < 0.05.",
    "Δ": "The metric after training with the partner, less before; mean of the seeds.",
    "Alone (control)": "Δ of the same training without a partner.",
    "Alone": "Δ of the same training without a partner.",
    "Old self (self)": "Δ when the model's own frozen start is its teacher.",
    "Old self": "Δ when the model's own frozen start is its teacher.",
    "Over its old self": "Δ less that with the model's own frozen start as teacher, seed by seed.",
    "q": "p-value of net Δ = 0, corrected for all comparisons of the setting; < 0.05 counts.",
    "Recovered": "Percent of the way from before to the ensemble of the untouched models.",
    "Seeds": "Jobs that differ in nothing but their random seed.",
    "Teaches": "What its partners gain with it, above what they gain on average.",
    "Learns": "What it gains with an average partner.",
    "Mean Δ": "Over all learners and partners of this objective.",
    "Mean net Δ": "Over all learners and partners of this objective that have a control.",
    "Ahead : behind": "Cases in which its Δ is the higher one : the lower one.",
    "Cases": "Learner and partner pairs, groups left out.",
    "Throughput": "Training samples of one model in a second.",
    "GPU memory": "The most that the job held at once.",
    "Worst class": "The least Δ of any class.",
    "Cause": "Errors of one cause are counted together.",
}
"""By the title of a column, without its unit."""


def meaning(title: str) -> str:
    """What a column means; empty where its title says it."""
    for known in (title, title.partition(",")[0], title.partition(",")[0].capitalize()):
        if known in MEANINGS:
            return MEANINGS[known]
    return ""


QUESTION = "Which models can improve which, and by how much?"

READING = (
    (
        "Δ",
        "A model's {measured} after training with a partner, minus before; percentages in "
        "percentage points. Mean over seeds.",
    ),
    (
        "Alone (control)",
        "The same model trained by its own loss alone: same recipe, data, order and "
        "seeds, but no partner. Training on changes a model too; this is by how much.",
    ),
    (
        "Net Δ",
        "Δ minus the control of the same seeds. Only this part is due to the partner.",
    ),
    (
        "Old self (self)",
        "A second control, where the sweep has it: the model’s own frozen start is its "
        "teacher. What a partner gives over that is due to what the partner knows, not to "
        "soft targets as such.",
    ),
    (
        "95% interval",
        "Where the true value lies, as far as the {units} drawn (and the seeds, where there "
        "are several) can tell. If it includes 0, the data do not show an effect; that is "
        "not proof of none.",
    ),
    (
        "Tie",
        "Every partner that may be the best, with 95% confidence over all of them. The data"
        " cannot say which one of a tie is best: choose by other reasons.",
    ),
    (
        "Recovered",
        "How much of the way to the ensemble of the untouched models the learner went: 100 "
        "× (after − before) / (ensemble − before). Over 100 % it passed the ensemble.",
    ),
    (
        "q",
        "The p-value of net Δ = 0, corrected for all comparisons of the setting "
        "(Benjamini–Hochberg). Only q < 0.05 counts as a difference, and only such values "
        "are coloured, bold or filled.",
    ),
    (
        "Verdict",
        "Improves: net Δ is above 0 with q < 0.05, and Δ’s interval is above 0. Better than"
        " alone: net Δ is, but Δ may be 0. Loses less, do not train: net Δ is above 0, yet "
        "the model ends below where it began. Harmed: net Δ is below 0 with q < 0.05.",
    ),
    (
        "A warning",
        "The best of several partners is chosen and reported on the same {units}, so its Δ "
        "is a little too high on average. Named first is a partner that improves the model,"
        " where there is one, then the highest net Δ of those that may be best.",
    ),
)
"""What each number means, in the order of importance; `{measured}`: the metric and its
set; `{units}`: what was drawn at random."""


def reading(measured: str, units: str) -> list[tuple[str, str]]:
    """(term, meaning); measured: what the numbers are of, as `mIoU on the val images`. units: what
    was drawn at random, such as images.
    """
    return [(term, text.format(measured=measured, units=units)) for term, text in READING]
