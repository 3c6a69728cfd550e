"""Files: rights that others had are taken and programs they can write named; writers of one file leave it whole."""

from __future__ import annotations

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from antiphon.core import disk


def rights(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_a_folder_that_others_could_read_is_closed_as_a_whole(tmp_path: Path) -> None:
    folder, outside = tmp_path / ".antiphon", tmp_path / "outside"
    (folder / "logs").mkdir(parents=True)
    outside.write_text("another's")
    outside.chmod(0o644)
    (folder / "logs" / "gateway.log").write_text("")
    (folder / "link").symlink_to(outside)
    (folder / "run.sh").write_text("")
    for path, mode in ((folder, 0o755), (folder / "logs", 0o777), (folder / "run.sh", 0o755)):
        path.chmod(mode)
    (folder / "logs" / "gateway.log").chmod(0o644)
    (folder / "private").write_text("")
    (folder / "private").chmod(0o600)
    assert disk.open_to_others(folder)
    assert disk.restrict(folder) == 4
    left = rights(folder)
    left.pop("link")
    assert left == {".": 0o700, "logs": 0o700, "logs/gateway.log": 0o600, "run.sh": 0o700, "private": 0o600}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644, "a link is not followed"
    assert disk.restrict(folder) == 0
    assert not disk.open_to_others(folder)
    assert disk.restrict(tmp_path / "gone") == 0


def test_who_else_may_write_to_a_program_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    definitions = tmp_path / "definitions.py"
    definitions.write_text("")
    definitions.chmod(0o644)
    assert disk.writable_by_others(tmp_path, "definitions.py") == []
    definitions.chmod(0o664)
    assert disk.writable_by_others(tmp_path, "definitions.py") == [definitions]
    tmp_path.chmod(0o1777)  # as /tmp is: nobody replaces what is not theirs
    assert disk.writable_by_others(tmp_path, "definitions.py") == [definitions]
    tmp_path.chmod(0o777)
    assert disk.writable_by_others(tmp_path, "definitions.py") == [tmp_path, definitions]


def test_a_process_makes_files_for_its_user_alone(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from antiphon.core import disk\n"
    code += "if sys.argv[2] == 'on': disk.make_private()\n"
    code += "Path(sys.argv[1]).mkdir(); Path(sys.argv[1], 'a').write_text('')"
    found = {}
    for switch in ("on", "off"):
        folder = tmp_path / switch
        subprocess.run([sys.executable, "-c", code, str(folder), switch], check=True, timeout=60, umask=0o022)
        found[switch] = rights(folder)
    assert found == {"on": {".": 0o700, "a": 0o600}, "off": {".": 0o755, "a": 0o644}}


def test_several_writers_at_once_leave_the_whole_content_of_one(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    contents = [bytes([65 + n]) * 5_000 for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda content: [disk.replace_file(file, content) for _ in range(25)], contents))
    assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]
