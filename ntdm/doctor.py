"""`ntdm doctor`: what is installed, which operators run, what is missing and the command that gets it."""

import importlib
import os
import platform
from importlib import metadata

import ntdm
from ntdm.ops import build, kernels

REQUIRED = (
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "open3d",
    "matplotlib",
    "PIL",
    "safetensors",
    "typer",
    "rich",
)
DISTRIBUTIONS = {"open3d": "open3d-cpu", "PIL": "pillow"}
OPEN3D_LIBRARIES = "apt-get install libegl1 libgl1 libusb-1.0-0"


def report() -> str:
    """Everything as text, a line an item; a missing thing is followed by `get it:` and a command."""
    lines = [
        f"ntdm {ntdm.__version__} in {build.PACKAGE}",
        f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPUs",
        *map(_package, REQUIRED),
        *_operators(),
        _cuda(),
        *_cuda_operators(),
        _kaolin(),
        _torchvision(),
    ]
    return "\n".join(lines)


def _package(module: str) -> str:
    distribution = DISTRIBUTIONS.get(module, module)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            return f"{module}: does not import ({error})\n  get it: pip install {error.name}"
        return f"{module}: missing\n  get it: pip install -c constraints.txt {distribution}"
    except (ImportError, OSError) as error:  # OSError: a shared library that is not there
        remedy = OPEN3D_LIBRARIES if module == "open3d" else f"pip install --force-reinstall {distribution}"
        return f"{module}: does not import ({error})\n  get it: {remedy}"
    return f"{module} {_version(module, distribution)}"


def _version(module: str, distribution: str) -> str:
    for name in (distribution, module):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "(version unknown)"


def _operators() -> list[str]:
    state = build.status()
    lines = [f"C++ compiler: {state['compiler']}"]
    if state["compiler"] is None:
        lines = [f"C++ compiler: missing\n  get it: {build.INSTALL_COMPILER}"]
    names = ", ".join(name.removesuffix(".cpp") for name in state["sources"])
    try:
        path = state["library"] or build.build(build.user_cache())
        kernels.library()
    except (build.BuildError, OSError) as error:
        return [*lines, f"operators on the CPU: not usable ({error})\n  get it: {build.INSTALL_COMPILER}"]
    origin = "built at installation" if path.parent == build.PACKAGE else "built at first use"
    return [
        *lines,
        f"operators on the CPU: {names} ({origin}: {path}; sources in {state['source_folder']})",
    ]


def _cuda() -> str:
    try:
        import torch
    except (ImportError, OSError):
        return "CUDA: not usable, torch does not import"
    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name()}, torch {torch.__version__}"
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return (
        f"CUDA: not usable (torch {torch.__version__} is {built} and sees no device); ntdm runs on the CPU\n"
        "  get it: an NVIDIA driver, then pip install --force-reinstall torch, the build for its CUDA version"
    )


def _cuda_operators() -> list[str]:
    state = build.status()
    nvcc = f"CUDA compiler: {state['nvcc']}" if state["nvcc"] else "CUDA compiler: missing"
    kernels = ", ".join(name.removesuffix("_cuda.cu") for name in state["cuda_sources"])
    if state["cuda_library"]:
        return [nvcc, f"operators on CUDA: {kernels} ({state['cuda_library']})"]
    if state["nvcc"]:
        return [nvcc, f"operators on CUDA: {kernels}, not built yet: that is done at first use"]
    return [nvcc, f"operators on CUDA: not built\n  get it: {build.INSTALL_NVCC}"]


def _kaolin() -> str:
    # The distribution proves nothing: the package index has a placeholder whose import raises ImportError.
    try:
        kaolin = importlib.import_module("kaolin")
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"Kaolin: not usable ({str(error).splitlines()[0]}); only fit-shapes needs it, on CUDA\n"
            "  get it: the README's section CUDA says which torch and Kaolin go together, and how"
        )
    return f"Kaolin {kaolin.__version__} (rasterizer and distances run on CUDA only)"


def _torchvision() -> str:
    try:
        importlib.import_module("torchvision.models.detection")
    # RuntimeError: a torchvision whose operators were built for another torch.
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"torchvision: not usable ({str(error).splitlines()[0]}); only the method mask-rcnn needs it\n"
            "  get it: pip install -e '.[mask-rcnn]', in the release for your torch"
        )
    return f"torchvision {_version('torchvision', 'torchvision')}"
