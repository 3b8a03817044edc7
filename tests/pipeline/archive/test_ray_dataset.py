from __future__ import annotations

import pytest
from support.drawn_archive import Drawn

from malmm.pipeline.archive.ray_dataset import dataset
from malmm.pipeline.schema.errors import ArchiveError


# That its rows are those of the archive is tested on the cluster of tests/integration/test_index_end_to_end.py.
def test_a_table_that_is_not_there_is_said(drawn: Drawn) -> None:
    with pytest.raises(ArchiveError, match="no table 'songs'"):
        dataset(drawn.reader, "songs")
