"""What the stages of the recipe multiply, for one clip: passes over a clip, each counted in forward passes.

Blocks are checkpointed, so what learns is passed forward twice. A backward pass costs twice a forward one,
and once where the network is frozen and only its input learns.
"""

from aapt.dit.attention import is_masked
from aapt.plan.count import Count, count_heads, seen_latents

LOOKS = 1  # a pass without gradients
LEARNS = 4
LETS_THROUGH = 3  # a frozen network with gradients for its input


def played_flop(count: Count, latents: int, after: int = 0) -> float:
    """`latents` latents that follow `after` others, one by one: each attends to what it sees."""
    seen = seen_latents(count.preset.dit.window, latents, after)
    return count.text.flop + sum(count.step_flop(places) for places in seen)


def forward_flop(count: Count, latents: int, after: int = 0) -> float:
    """One pass over the same. Under a mask a latent attends to all that is in the pass, and what is then
    hidden is multiplied, too."""
    if not is_masked(count.tokens):
        return played_flop(count, latents, after)
    places = min(after, count.preset.dit.window + 2) + latents
    return count.text.flop + latents * count.step_flop(places)


def adapt_flop(count: Count, latents: int) -> float:
    """Stage 1: the network learns."""
    return LEARNS * forward_flop(count, latents)


def distill_flop(count: Count, latents: int) -> float:
    """Stage 2: the student learns; the teacher and the student's own target look."""
    return (LEARNS + 2 * LOOKS) * forward_flop(count, latents)


def adversarial_flop(count: Count, latents: int, extensions: int = 0, overlap: int = 0) -> float:
    """Stage 3, all segments of a clip: played once, then discriminator and generator learn from it.

    The discriminator looks at real and fake, and at both perturbed; the generator passes its segment again,
    is judged, and compared with the real one.
    """
    judged = forward_flop(count, latents)
    judged += latents * count_heads(count.preset).flop_per_latent
    total = 0.0
    for segment in range(extensions + 1):
        new = latents - overlap if segment else latents
        after = latents + (segment - 1) * (latents - overlap) if segment else 0
        total += LOOKS * played_flop(count, new, after) + LEARNS * forward_flop(count, new, after)
        total += (4 * LEARNS + LETS_THROUGH + LOOKS) * judged
    return total
