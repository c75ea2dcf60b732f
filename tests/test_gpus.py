"""The table of GPUs: found by the whole name or not at all."""

import pytest

from bpo_utils.training import gpus


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A800-SXM4-80GB", "a800-80"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("A100-SXM4-40GB", "a100-40"),  # an old driver
        ("NVIDIA A100 80GB PCIe", "a100-80-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_gpu_is_found_by_the_name_that_torch_gives(device, name):
    assert gpus.find(device) == gpus.named(name)


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A800 40GB Active",
        "NVIDIA H20",
        "NVIDIA H800",
        "NVIDIA H100",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A10G",
        "NVIDIA B200",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_unknown_gpu_has_no_figures_and_no_guess(device):
    assert gpus.find(device) is None
    assert gpus.peak_flops(device) is None


def test_peaks_are_dense_and_only_for_gpus_that_the_mfu_is_for():
    peaks = {name: gpus.peak_flops(gpu.names[0]) for name, gpu in gpus.table().items()}
    assert peaks["a800-80"] == peaks["a100-80"] == peaks["a100-40"] == 312e12  # 624 is with sparsity
    assert peaks["h100"] == peaks["h200"] == pytest.approx(989.4e12)
    assert peaks["h100-pcie"] < peaks["h100-nvl"] < peaks["h100"]
    assert {name for name, peak in peaks.items() if peak is None} == {"rtx4090", "rtx3090", "a10", "l4"}


def test_no_device_name_stands_for_two_gpus():
    names = [name for gpu in gpus.table().values() for name in gpu.names]
    assert len(names) == len(set(names))


def test_wrong_name_on_the_command_line_is_answered_with_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"no GPU 'a800' \(did you mean 'a800-80'\?\); there are a800-80, .*l4"):
        gpus.named("a800")


def test_faulty_table_is_refused_with_file_and_key(tmp_path, monkeypatch):
    broken = tmp_path / "gpus.toml"
    broken.write_text(gpus.FILE.read_text(encoding="utf-8").replace("tflops = 121.0", "teraflops = 121.0"))
    monkeypatch.setattr(gpus, "FILE", broken)
    gpus.table.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"(?s)gpus\.toml.*teraflops"):
            gpus.table()
    finally:
        gpus.table.cache_clear()
