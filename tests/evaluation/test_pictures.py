"""Pictures that a model's own processor would reject are refused before anything is asked."""

import gguf
import pytest
from PIL import Image

from luq_gguf.core.errors import EvaluationError
from luq_gguf.core.types import Sample
from luq_gguf.evaluation import pictures


@pytest.fixture
def mmproj(tmp_path):
    """The metadata of an mmproj with this projector."""

    def write(kind):
        path = tmp_path / f"mmproj-{kind}.gguf"
        writer = gguf.GGUFWriter(path, arch="clip")
        writer.add_string("clip.projector_type", kind)
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        return path

    return write


@pytest.fixture
def samples(tmp_path):
    sizes = {"long.png": (2275, 10), "high.png": (10, 2001), "limit.png": (2000, 10), "one.png": (1, 1)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / name)
    return [Sample("?"), *(Sample("?", (tmp_path / name,)) for name in sizes)]


def test_a_picture_too_long_for_qwens_processor_is_refused_by_name(mmproj, samples):
    with pytest.raises(EvaluationError, match=r"The image long\.png and 1 more is too long .*2275 x 10 pixels"):
        pictures.check(mmproj("qwen2.5vl_merger"), samples)
    pictures.check(mmproj("qwen3vl_merger"), [samples[0], *samples[3:]])


def test_other_processors_take_it(mmproj, samples):
    pictures.check(mmproj("mlp"), samples)
