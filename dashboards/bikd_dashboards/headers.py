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
