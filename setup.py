"""Builds the man pages; everything else is in setup.cfg.

The pages are rendered while data files are installed, so that one place serves
wheels, plain installs and editable ones, isolated or not.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Distribution, setup

# Only after setuptools, which brings the module where Python no longer does (3.12).
from distutils.command.install_data import install_data  # isort: skip


class InstallManPages(install_data):
    """Install the data files, and every man/NAME.SECTION.rst as a man page."""

    def run(self) -> None:
        """Render into share/man/manSECTION below the installation's prefix."""
        super().run()
        for source in sorted(Path("man").glob("*.[1-8].rst")):
            page = source.stem  # coopfs-init.1
            target_dir = Path(self.install_dir, "share/man", f"man{page[-1]}")
            self.mkpath(str(target_dir))
            target = target_dir / page
            self.announce(f"rendering {source} -> {target}", level=2)
            target.write_bytes(render_man_page(source))
            self.outfiles.append(str(target))


class WithManPages(Distribution):
    """Says so under the name that editable installations ask for."""

    def has_data(self) -> bool:
        """Return whether install_data has anything to do."""
        return True


def render_man_page(source: Path) -> bytes:
    """Return the troff text of a page written in reStructuredText."""
    # Imported late: only an installation needs docutils, not `setup.py --version`.
    from docutils.core import publish_string
    from docutils.writers.manpage import Writer

    settings = {
        "input_encoding": "utf-8",
        "output_encoding": "utf-8",
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
    }
    rendered = publish_string(
        source.read_bytes(),
        source_path=str(source),
        writer=Writer(),
        settings_overrides=settings,
    )
    return bytes(rendered)


# An installation without data files would skip install_data.
setup(
    distclass=WithManPages,
    cmdclass={"install_data": InstallManPages},
    data_files=[
        ("share/doc/coopfs", ["README.rst"]),
        ("lib/systemd/system", ["systemd/coopfs-serve.service", "systemd/coopfs-serve.socket"]),
    ],
)
