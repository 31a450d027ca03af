"""What a user's settings for the Hub are wrong in is one sentence, of a download, of calibration data and of an
upload."""

import huggingface_hub.constants
import pytest
from hub_server import Fault, serve

from luq_gguf.core.errors import HubAccessError
from luq_gguf.hf import datasets, download, hub_datasets
from luq_gguf.publishing import access


def check_upload(folder):
    access.check(access.Target("mira/little"))


ACTIONS = {
    "download": lambda folder: download.fetch("someone/little", None, lambda fetched: None),
    "config": lambda folder: download.fetch_config("someone/little"),
    "calibration": lambda folder: datasets.read_questions("someone/set", 2, 0, folder),
    "upload": check_upload,
}
of_every_kind = pytest.mark.parametrize("act", list(ACTIONS.values()), ids=list(ACTIONS))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A client that reads these tests' settings, and no commit from before."""
    for name in ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    hub_datasets.commit_of.cache_clear()
    yield
    huggingface_hub.close_session()


@of_every_kind
def test_a_socks_proxy_without_its_package_names_the_package(act, monkeypatch, tmp_path):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    with pytest.raises(HubAccessError, match="SOCKS proxy, but the Python package socksio is not installed") as refused:
        act(tmp_path)
    assert "pip install socksio" in refused.value.hint


@of_every_kind
def test_an_address_without_https_is_told_as_such(act, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "hub.example.org")
    with pytest.raises(HubAccessError, match="HF_ENDPOINT is hub.example.org, which does not begin with https://"):
        act(tmp_path)


@of_every_kind
@pytest.mark.parametrize("variable", [True, False], ids=["HF_TOKEN", "logged-in"])
def test_a_token_that_is_not_accepted_is_told_alike(act, variable, monkeypatch, tmp_path):
    message = {"X-Error-Message": "Invalid credentials in Authorization header"}
    with serve() as hub:
        hub.faults.append(Fault("/", 401, times=20, headers=message))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        (tmp_path / "token").write_text("hf_old")
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        if variable:
            monkeypatch.setenv("HF_TOKEN", "hf_older")
        with pytest.raises(HubAccessError, match="^The Hub does not accept your access token") as refused:
            act(tmp_path)
    assert ("HF_TOKEN" in refused.value.message) == variable
    assert ("hf auth login" in refused.value.hint) != variable
