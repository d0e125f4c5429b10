"""What GPUs can do at best, by their makers' public data sheets. Rates are dense: no sparsity."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """One accelerator. fp8_flop_per_s: 0 where it does not multiply fp8. link: to another GPU, one way."""

    name: str
    bf16_flop_per_s: float
    fp8_flop_per_s: float
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float

    def flop_per_s(self, precision: str) -> float:
        """Peak rate of `precision`, "bf16" or "fp8". Raises ValueError where there is none."""
        rate = {"bf16": self.bf16_flop_per_s, "fp8": self.fp8_flop_per_s}[precision]
        if not rate:
            raise ValueError(f"{self.name} does not multiply {precision}; choose bf16")
        return rate


# NVIDIA H100 data sheet, SXM: 1,979 and 3,958 TFLOPS with sparsity; NVLink 900 GB/s both ways together.
H100 = GPU("H100 SXM", 989e12, 1979e12, 80e9, 3.35e12, 450e9)
# NVIDIA H200 data sheet, SXM: an H100 with more and faster memory.
H200 = GPU("H200 SXM", 989e12, 1979e12, 141e9, 4.8e12, 450e9)
# NVIDIA A100 data sheet, SXM 80GB: 312 TFLOPS bf16, no fp8; NVLink 600 GB/s both ways together.
A100 = GPU("A100 SXM 80GB", 312e12, 0.0, 80e9, 2.039e12, 300e9)
# NVIDIA L40S data sheet: 362 and 733 TFLOPS; no NVLink, PCIe Gen4 x16 64 GB/s both ways together.
L40S = GPU("L40S", 362e12, 733e12, 48e9, 0.864e12, 32e9)
# NVIDIA HGX B200 data sheet, per GPU: 4.5 and 9 PFLOPS with sparsity; NVLink 1.8 TB/s both ways together.
B200 = GPU("B200 SXM", 2250e12, 4500e12, 180e9, 8.0e12, 900e9)

GPUS = {"h100": H100, "h200": H200, "a100": A100, "l40s": L40S, "b200": B200}
