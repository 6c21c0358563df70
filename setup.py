"""What pyproject.toml cannot say: cli.py goes into the wheel as ntdm/cli.py, and the operators are built."""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def native():
    """ntdm/ops/build.py, by its path: ntdm itself is not importable under build isolation."""
    spec = importlib.util.spec_from_file_location("ntdm_build", ROOT / "ntdm" / "ops" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildRooms(build_py):
    """The packages, then cli.py, the kernels' sources and the libraries built from them."""

    def find_package_modules(self, package, package_dir):
        # package-dir maps folders only; the editable finder accepts the file, a wheel needs the copy below.
        return [] if package == "ntdm.cli" else super().find_package_modules(package, package_dir)

    def run(self):
        super().run()
        package = ROOT / "ntdm"
        if not self.editable_mode:
            package = Path(self.build_lib).resolve() / "ntdm"
            shutil.copy2(ROOT / "cli.py", package / "cli.py")
            shutil.copytree(ROOT / "cuda", package / "kernels", dirs_exist_ok=True)
        for old in package.glob("libntdm*.so"):
            old.unlink()
        kernels = native()
        for build in (kernels.build, *([kernels.build_cuda] if kernels.cuda_is_wanted() else [])):
            try:
                build(package)
            except RuntimeError as reason:  # still usable: built at first use, and `ntdm doctor` says so
                print(f"ntdm: operators not built now: {reason}", file=sys.stderr)


class WithOperators(Distribution):
    """A platform wheel, though setuptools compiles nothing itself."""

    def has_ext_modules(self):
        return True


class AnyPython(bdist_wheel):
    """The library is plain C called through ctypes: one wheel for every Python 3 of the platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


PLACES = {"ntdm": "ntdm", "ntdm.data_prep": "data_prep", "ntdm.reports": "reports"}  # packages -> folders

setup(
    packages=[
        *(f"{package}.{inner}" for package, folder in PLACES.items() for inner in find_packages(folder)),
        *PLACES,
        "ntdm.cli",
    ],
    package_dir=PLACES | {"ntdm.cli": "cli"},
    cmdclass={"build_py": BuildRooms, "bdist_wheel": AnyPython},
    distclass=WithOperators,
)
