# SPDX-License-Identifier: Apache-2.0
"""Which devices JAX runs on: those asked for, or an error. Never the CPU by accident."""

from __future__ import annotations

import os
from pathlib import Path

from switch_t5.errors import ConfigError, MeshError

# One line for each kind of device node: its platform, folder and pattern.
_DEVICE_NODES = (
  ("gpu", "/dev", "nvidia[0-9]*"),
  ("gpu", "/dev", "kfd"),  # AMD
  ("tpu", "/dev", "accel[0-9]*"),
  ("tpu", "/dev/vfio", "[0-9]*"),
)
_INSTALL = {"gpu": 'pip install "jax[cuda12]"', "tpu": 'pip install "jax[tpu]"'}
_DEVICE_FLAG = "--xla_force_host_platform_device_count"
# XLA runs the programs of all emulated devices in one pool of threads, by default one for each device.
# A collective waits in its thread; a device with two that wait leaves another device none, and the
# program stands still. XLA takes the size of the pool from the variable NPROC.
_THREADS_PER_DEVICE = 8


def select(platform: str | None, emulate_devices: int | None) -> None:
  """Tells JAX what to run on. Call it before JAX looks for devices.

  Args:
    platform: cpu, gpu, tpu, or None to leave it to JAX_PLATFORMS and JAX.
    emulate_devices: how many CPU devices to emulate, or None.

  Raises:
    ConfigError: if devices are emulated on anything but the CPU.
  """
  asked = platform or _from_environment()
  if emulate_devices is not None:
    if asked not in (None, "cpu"):
      raise ConfigError(
        "Only CPU devices can be emulated.",
        value=f"--emulate_devices={emulate_devices} on {asked}",
        remedy="Leave out --emulate_devices, or use --platform=cpu and unset JAX_PLATFORMS.",
      )
    platform = "cpu"
    kept = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICE_FLAG)]
    os.environ["XLA_FLAGS"] = " ".join([*kept, f"{_DEVICE_FLAG}={emulate_devices}"])
    os.environ.setdefault("NPROC", str(_THREADS_PER_DEVICE * emulate_devices))
  if platform is not None:
    import jax

    # For an accelerator JAX tries all it knows, and `require` checks what it got: named
    # platforms fail inside JAX, without a word about the remedy.
    jax.config.update("jax_platforms", "cpu" if platform == "cpu" else None)


def use_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless JAX was told where: a resumed run starts at once."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(root / "switch_t5" / "compiled"))


def require(platform: str | None) -> None:
  """Refuses to run where the asked-for, or a visible, accelerator is not used.

  Call it once JAX may start its devices: after `jax.distributed.initialize`.

  Args:
    platform: as for `select`.

  Raises:
    MeshError: names what was asked for or seen, what JAX found, and the remedy.
  """
  import jax

  asked = platform or _from_environment()
  try:
    found = jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # JAX's own refusals of JAX_PLATFORMS
    raise _missing(str(asked), f"JAX: {error}".partition(" (set")[0]) from None
  if asked is not None and asked != found:
    raise _missing(asked, f"JAX found {found} only")
  if asked is None and found == "cpu" and (seen := visible_accelerators()):
    kind, node = seen[0]
    raise MeshError(
      "This machine has an accelerator that JAX does not use.",
      value=node,
      rule="a run falls back to the CPU only if it is told to",
      remedy=f"Install its support: {_INSTALL[kind]}; or run on the CPU: --platform=cpu",
    )


def visible_accelerators(root: Path = Path("/")) -> list[tuple[str, str]]:
  """Returns (platform, device node) of each accelerator that the system shows."""
  return [
    (kind, f"{folder}/{node.name}")
    for kind, folder, pattern in _DEVICE_NODES
    for node in sorted((root / folder.lstrip("/")).glob(pattern))
  ]


def _missing(asked: str, found: str) -> MeshError:
  install = f"Install its support: {_INSTALL[asked]}; or run" if asked in _INSTALL else "Run"
  return MeshError(
    f"The platform that was asked for is not there: {asked}.",
    value=found,
    rule="a run never falls back to the CPU silently",
    remedy=f"{install} on the CPU: --platform=cpu",
  )


def _from_environment() -> str | None:
  """Returns what JAX_PLATFORMS asks for first, in this module's words."""
  first = os.environ.get("JAX_PLATFORMS", "").partition(",")[0].strip().lower()
  return {"cuda": "gpu", "rocm": "gpu"}.get(first, first) or None
