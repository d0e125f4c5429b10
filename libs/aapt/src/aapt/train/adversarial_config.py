"""What stage 3 may be told."""

from dataclasses import dataclass

from aapt.train.ranges import ABOVE_0, ANY, COUNT, SHARE, check_ranges


@dataclass(frozen=True)
class AdversarialConfig:
    """The paper: penalty 1000, perturbation 0.1 (a standard deviation), logits of single latents, causal.

    length: latents of the first segment. extensions: further segments, each of `length` - `overlap` new
    latents; the discriminator sees them behind the last `overlap` of the segment before (paper: one second).
    graded: how many of a step's segments are learnt from, drawn anew each time; the others are only played,
      which costs a tenth, and what follows the last of them is not played at all. 0: all (paper).
    late: share of steps that take up worlds in which somebody has played for long (`Clips.batch`).
    judge_rate: the discriminator's learning rate, of the generator's. judge_first: steps in which it learns
      alone. RMSProp takes steps of full length however little a gradient says, and a judge whose heads are
      still random leads a small generator astray within fifty of them.
    anchor: weight, in the generator's loss, of its squared distance from the truth one step behind true
      latents. The judge asks for a likely video; this holds the generator to the one that the keys ask for.
      0: none (paper).
    mismatched: weight, in the discriminator's loss, of real clips under the keys of others, which are to fall
      below the same clips under their own. Without it the judge hardly looks at the keys. 0: none (paper).
    by_sight: share of steps in which the student's worlds are driven by one who sees them and nothing else
      (`worlds/watcher.py`), beside real clips that were driven so. Under the keys of recordings, which were
      meant for other roads, a dream leaves its road within seconds; what is then learnt of roads is little.
      0: none (paper).
    teacher_forced: each latent is made and judged behind true ones; the paper's ablation (appendix D).
    """

    clips: int = 4
    length: int = 10
    extensions: int = 0
    overlap: int = 2
    graded: int = 0
    late: float = 0.0
    penalty: float = 1000.0
    perturbation: float = 0.1
    is_causal: bool = True
    judges_latents: bool = True
    judge_rate: float = 1.0
    judge_first: int = 0
    anchor: float = 0.0
    mismatched: float = 0.0
    by_sight: float = 0.0
    teacher_forced: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, clips=COUNT, length=COUNT, extensions=ANY, graded=ANY, late=SHARE, judge_first=ANY)
        check_ranges(self, penalty=ANY, perturbation=ANY, judge_rate=ABOVE_0, anchor=ANY, mismatched=ANY)
        check_ranges(self, by_sight=SHARE)
        if not 0 <= self.overlap < self.length:
            raise ValueError(
                f"overlap {self.overlap} of {self.length} latents leaves nothing new; choose less"
            )
        if self.mismatched and self.clips < 2:
            raise ValueError("mismatched gives a clip the keys of another; take 2 clips or more")
        rollouts = self.extensions or self.late or self.by_sight
        if self.teacher_forced and (rollouts or not self.is_causal or not self.judges_latents):
            raise ValueError(
                "teacher forcing plays nothing, so it has no extensions, no late worlds, none by sight, and"
                " its judge is causal and judges latents; leave these options out"
            )
