"""Plays a session again from its log, and says whether every latent is what it was, to the bit.

    python -m services.replay road-0123… --sessions HOST:PORT --checkpoint checkpoints/road --out replay.mp4

Logs are read where our own services call, and as they do: TLS_CA_FILE, TLS_CERT_FILE, TLS_KEY_FILE. The same
build, processor and checkpoint give the same bits. Exits with 1 where a latent differs, and with 2 where the
log does not suffice.
"""

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve the others

import grpc
import torch

from aapt.checkpoint import Model
from aapt.vae.streaming import StreamingVAE, for_serving
from loadtests.movie import Mp4
from services.engine.model import load
from services.engine.recorded import made_with
from services.errors import ServiceError
from services.relay import refusal_in
from services.replay.again import Again, CannotReplay
from services.replay.logged import Logged, read
from services.settings import settings_from_env
from services.tls import Tls


def save(again: Again, model: Model, path: Path) -> None:
    """What the session looked like, as an MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    movie, codec = Mp4(path, round(model.preset.frames_per_second)), StreamingVAE(for_serving(model.vae))
    for latent in again.film():
        for frame in codec.decode(latent).numpy():
            movie.add(frame)
    movie.close()


def said(again: Again, logged: Logged, here: str) -> str:
    """What came of it, in a sentence."""
    what = f"{logged.session.session_id}: {again.latents} latents in {again.epochs} epochs"
    rest = "" if logged.is_whole else "; its log ends there, since its tenant's room was full"
    if again.difference is None:
        return f"{what}, each equal to what was played, to the bit{rest}"
    other = again.difference.made_with
    why = (
        f"; it was made with {other}, this is {here}"
        if other != here
        else "; build and checkpoint are the same"
    )
    return f"{what}: latent {again.difference.index} of epoch {again.difference.epoch} differs{why}{rest}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m services.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("session", help="id of the session")
    parser.add_argument(
        "--sessions", default="127.0.0.1:50062", metavar="HOST:PORT", help="its internal address"
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--device", default="cpu", help="where it was played")
    parser.add_argument("--threads", type=int, default=1, help="torch's, as the engine had (TORCH_THREADS)")
    parser.add_argument("--out", type=Path, help="write what was seen, as .mp4")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a sentence")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        logged = asyncio.run(read(options.sessions, options.session, settings_from_env(Tls)))
        model = load(options.checkpoint)
        again = logged.played_again(model, options.device)
    except grpc.aio.AioRpcError as error:
        print(refusal_in(error) or error.details(), file=sys.stderr)
        return 2
    except (CannotReplay, ServiceError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.out:
        try:
            save(again, model, options.out)
        except OSError as error:
            print(f"{options.out} cannot be written: {error}", file=sys.stderr)
            return 2
    if options.json:
        difference = again.difference and asdict(again.difference)
        print(json.dumps({"latents": again.latents, "epochs": again.epochs, "difference": difference}))
    else:
        print(said(again, logged, made_with(options.checkpoint)))
    return 0 if again.difference is None else 1


if __name__ == "__main__":
    sys.exit(main())
