"""Metadata lives in pyproject.toml; here is what a wheel needs beside it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """Puts the recipes and commands, which stand at the top of the repository, inside the package of a wheel."""

    def run(self) -> None:
        """Build the package; an editable one uses the folders where they are."""
        super().run()
        if self.editable_mode:
            return
        for top, inside, pattern in (("conf", "conf", "*.yaml"), ("examples", "commands", "*.py")):
            for source in Path(top).rglob(pattern):
                target = Path(self.build_lib, "nemo_speechlm", inside, source.relative_to(top))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": WithRecipes})
