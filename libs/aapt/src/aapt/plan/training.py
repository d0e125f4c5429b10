"""What the stages of the recipe multiply, for one clip: passes over a clip, each counted in forward passes.

Blocks are checkpointed, so what learns is passed forward twice. A backward pass costs twice a forward one,
and once where the network is frozen and only its input learns.
"""

from aapt.plan.count import Count, count_heads

LOOKS = 1  # a pass without gradients
LEARNS = 4
LETS_THROUGH = 3  # a frozen network with gradients for its input


def forward_flop(count: Count, latents: int, after: int = 0, *, is_masked: bool = False) -> float:
    """One pass over `latents` latents that follow `after` others.

    A latent attends to what it sees, as in the paper's loop over frames. is_masked: to all that is in the
    pass, as our parallel pass does: it multiplies what the mask then hides.
    """
    window = count.preset.dit.window
    places = [min(i, window + 2) for i in range(after + 1, after + latents + 1)]
    if is_masked:
        places = [min(after, window + 2) + latents] * latents
    return count.text.flop + sum(count.step_flop(seen) for seen in places)


def adapt_flop(count: Count, latents: int, *, is_masked: bool = False) -> float:
    """Stage 1: the network learns."""
    return LEARNS * forward_flop(count, latents, is_masked=is_masked)


def distill_flop(count: Count, latents: int, *, is_masked: bool = False) -> float:
    """Stage 2: the student learns; the teacher and the student's own target look."""
    return (LEARNS + 2 * LOOKS) * forward_flop(count, latents, is_masked=is_masked)


def adversarial_flop(
    count: Count, latents: int, extensions: int = 0, overlap: int = 0, *, is_masked: bool = False
) -> float:
    """Stage 3, all segments of a clip: played once, then discriminator and generator learn from it.

    The discriminator looks at real and fake, and at both perturbed; the generator passes its segment again,
    is judged, and compared with the real one.
    """
    judged = forward_flop(count, latents, is_masked=is_masked)
    judged += latents * count_heads(count.preset).flop_per_latent
    total = 0.0
    for segment in range(extensions + 1):
        new = latents - overlap if segment else latents
        after = latents + (segment - 1) * (latents - overlap) if segment else 0
        play = forward_flop(count, new, after)  # with the cache: nothing is masked
        again = forward_flop(count, new, after, is_masked=is_masked)
        total += LOOKS * play + LEARNS * again
        total += (4 * LEARNS + LETS_THROUGH + LOOKS) * judged
    return total
