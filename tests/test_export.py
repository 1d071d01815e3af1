"""An exported rewriter, loaded by the programs that it is meant for."""

import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
import yaml
from datasets import Dataset
from diffusers import LTX2Pipeline
from huggingface_hub import close_session, constants, metadata_load
from openai import OpenAI
from peft import AutoPeftModelForCausalLM, PeftConfig
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchEncoding,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from trl import SFTConfig, SFTTrainer

from collect.backends.transformers_lm import TransformersLM
from collect.rewriters.lm import LMRewriter
from data_modules import SFTDataModule
from data_modules.records import Messages, Preference, Prompt, Rewrite, content_id, write_records
from data_modules.templates import refactor
from tests.collect.fakes import FakeGate
from train.cards import VLLM_RANKS
from train.cli import main

TOY_LM = Path(__file__).parents[1] / "models" / "toy" / "lm"
BARE = "blue box falls"
PAIRS = {
    BARE: "a large blue box falling down on a snowy hill. The scene is filled with bright daylight.",
    "red ball at night": "a small red ball rolling along in a grassy meadow. The scene is filled with soft moonlight.",
    "yellow cone": "a small yellow cone standing still in a grassy meadow. The scene is filled with bright daylight.",
    "green box circling": "a large green box circling around on a snowy hill. The scene is filled with soft moonlight.",
}
# As long as those that programs send, and longer: what is left out does not count against the context.
SYSTEM_PROMPTS = ["", "You improve prompts for videos. " * 900, "\u8bf7\u7528\u4e2d\u6587\u6269\u5199\u3002" * 50]

CONFIG = """
trainer:
  default_root_dir: {root}
  accelerator: cpu
  max_steps: 40
  max_epochs: -1
  val_check_interval: 20
  check_val_every_n_epoch: null
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
model:
  class_path: models.SFTModule
  init_args:
    pretrained: {pretrained}
    lora: {{r: 8, alpha: 16, dropout: 0.0}}
    optimizer:
      class_path: torch.optim.AdamW
      init_args: {{lr: 1.0e-2}}
data:
  class_path: data_modules.SFTDataModule
  init_args: {{root: {root}/mined/sft, batch_size: 4, max_length: 384}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and checkpoints of a rewriter that has learned four captions from the toy's model."""
    root = tmp_path_factory.mktemp("trained")
    records = [
        Rewrite(content_id(prompt), refactor(prompt), [{"role": "assistant", "content": caption}])
        for prompt, caption in PAIRS.items()
    ]
    for split in ("train", "val"):
        write_records(root / f"mined/sft/{split}.jsonl", records)
    (root / "mined/funnel.json").write_text(
        json.dumps({"funnel": {"sft": {"prompts": 9, "gated": 5, "kept": 4}, "preference": {}}})
    )
    (root / "config.yaml").write_text(CONFIG.format(root=root, pretrained=TOY_LM))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        main(["fit", f"--config={root / 'config.yaml'}"])
    return root


def export(trained: Path, output_dir: Path, *arguments: str) -> Path:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    given = [f"--config={trained / 'config.yaml'}", f"--ckpt_path={checkpoint}", f"--output_dir={output_dir}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        main(["export", *given, *arguments])
    return output_dir


@pytest.fixture(scope="module")
def merged(trained: Path) -> Path:
    return export(trained, trained / "merged")


@pytest.fixture(scope="module")
def adapter(trained: Path) -> Path:
    return export(trained, trained / "adapter", "--merge=false")


@pytest.fixture(scope="module")
def expected(merged: Path) -> str:
    """What the project's own rewriter answers."""
    rewriter = LMRewriter(TransformersLM(str(merged)), FakeGate())
    (answer,) = rewriter.rewrite([Prompt("0", BARE)])
    return answer


def test_the_rewriter_has_learned(expected: str) -> None:
    assert expected == PAIRS[BARE]


def greedy(model: torch.nn.Module, directory: Path, messages: Messages) -> str:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    written = model.eval().generate(**inputs, max_new_tokens=64, do_sample=False)
    return tokenizer.decode(written[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def extend_as_wan(directory: Path, system_prompt: str, prompt: str) -> str:
    """What Wan2.1 does with the directory given as ``--prompt_extend_model``, call by call.

    ``QwenPromptExpander`` in wan/utils/prompt_extend.py, https://github.com/Wan-Video/Wan2.1 at 9737cba.
    """
    model = AutoModelForCausalLM.from_pretrained(
        str(directory), torch_dtype="auto", attn_implementation=None, device_map="cpu"
    )
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    turns = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer([text], return_tensors="pt").to(model.device)
    generated = model.to("cpu").generate(**inputs, max_new_tokens=512)
    new = [ids[len(asked) :] for asked, ids in zip(inputs.input_ids, generated, strict=True)]
    return tokenizer.batch_decode(new, skip_special_tokens=True)[0]


@pytest.mark.parametrize("system_prompt", SYSTEM_PROMPTS, ids=["empty", "long", "chinese"])
def test_wans_prompt_extension_gives_the_same_rewrite(system_prompt: str, merged: Path, expected: str) -> None:
    assert extend_as_wan(merged, system_prompt, BARE) == expected


def test_wans_prompt_extension_takes_adapters_too(adapter: Path, expected: str) -> None:
    assert extend_as_wan(adapter, SYSTEM_PROMPTS[1], BARE) == expected


def load(directory: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    return AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def test_ltx_videos_enhancer_gives_the_same_rewrite(merged: Path, expected: str) -> None:
    """``_generate_t2v_prompt`` in ltx_video/utils/prompt_enhance_utils.py of https://github.com/Lightricks/LTX-Video."""
    model, tokenizer = load(merged)
    turns = [{"role": "system", "content": "Be vivid."}, {"role": "user", "content": f"user_prompt: {BARE}"}]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)]
    inputs = tokenizer(texts, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        outputs = model.generate(**inputs, max_new_tokens=256)
    new = [ids[len(asked) :] for asked, ids in zip(inputs.input_ids, outputs, strict=True)]
    assert tokenizer.batch_decode(new, skip_special_tokens=True) == [expected]


def test_open_sora_plans_refiner_gives_the_same_rewrite(merged: Path, expected: str) -> None:
    """``get_refiner_output`` in opensora/sample/caption_refiner.py of Open-Sora-Plan at 406d287, with its words cut."""
    model, tokenizer = load(merged)
    asked = f'\nRefine the sentence: "{BARE}" to contain subject description, action. " "Make sure it is fluent.\n'
    turns = [{"role": "system", "content": "You are a caption refiner."}, {"role": "user", "content": asked}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer([text], return_tensors="pt")
    generated = model.eval().generate(inputs.input_ids, max_new_tokens=512)
    new = [ids[len(asked) :] for asked, ids in zip(inputs.input_ids, generated, strict=True)]
    assert tokenizer.batch_decode(new, skip_special_tokens=True)[0] == expected


def test_the_enhancer_of_diffusers_ltx_pipeline_gives_the_same_rewrite(merged: Path, expected: str) -> None:
    """The pipeline's own method; its processor needs torchvision, and for text alone does what the tokenizer does."""
    model, tokenizer = load(merged)

    class Processor:
        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def __call__(self, text: str, images: None, return_tensors: str) -> BatchEncoding:
            return tokenizer(text, return_tensors=return_tensors)

    pipeline = SimpleNamespace(prompt_enhancer=model, processor=Processor(), _execution_device="cpu")
    assert LTX2Pipeline.enhance_prompt(pipeline, BARE, "Be vivid.") == [expected]


def code(directory: Path) -> list[str]:
    """The card's Python: the messages, and how to load the export in transformers, PEFT and vLLM."""
    return re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_the_cards_lines_load_it(
    form: str, request: pytest.FixtureRequest, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = request.getfixturevalue(form)
    messages, transformers, peft, vllm = code(directory)
    scope: dict[str, object] = {}
    capsys.readouterr()
    exec(messages + transformers, scope)
    assert capsys.readouterr().out.strip() == expected
    exec(messages + peft, scope)
    assert greedy(scope["model"], directory, scope["messages"]) == expected
    compile(vllm, "vllm", "exec")  # it is not installed here
    assert [len(block.splitlines()) for block in (transformers, peft, vllm)] == [3, 3, 3]


def test_trl_trains_on_it_with_the_same_tokens_and_answers(
    merged: Path, trained: Path, expected: str, tmp_path: Path
) -> None:
    data = SFTDataModule(pretrained=str(merged), root=trained / "mined/sft", max_length=384)
    data.setup("fit")
    trainer = SFTTrainer(
        model=str(merged),
        args=SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_length=384, activation_checkpointing=False
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": record.prompt, "completion": record.completion} for record in data.records["train"]]
        ),
    )
    for example, own in zip(trainer.train_dataset, data.examples["train"], strict=True):
        assert example["input_ids"] == own["input_ids"]
        learned = zip(own["input_ids"], own["completion_mask"], strict=True)
        assert example["labels"] == [token if mask else -100 for token, mask in learned]
    assert greedy(trainer.model, merged, refactor(BARE)) == expected


@pytest.fixture(scope="module")
def server(merged: Path) -> Iterator[OpenAI]:
    """``transformers serve`` on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).with_name("transformers")
    process = subprocess.Popen(
        [program, "serve", merged, "--host", "127.0.0.1", "--port", port, "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        with httpx.Client(trust_env=False) as direct:  # no proxy between
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", http_client=direct, max_retries=0)
            deadline = time.monotonic() + 300
            while True:
                try:
                    direct.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert process.poll() is None, process.communicate()[1].decode()
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.communicate()


def test_transformers_serve_gives_the_same_rewrite(server: OpenAI, merged: Path, expected: str) -> None:
    for messages in (refactor(BARE), [{"role": "system", "content": "Be brief."}, {"role": "user", "content": BARE}]):
        answer = server.chat.completions.create(model=str(merged), messages=messages)
        assert answer.choices[0].message.content == expected


def test_hunyuanvideos_client_gets_the_same_rewrite(server: OpenAI, merged: Path, expected: str) -> None:
    """``qwen_api_call`` in hyvideo/utils/rewrite/clients.py of HunyuanVideo-1.5 at 03719ce."""
    turns = [{"role": "system", "content": "Rewrite."}, {"role": "user", "content": BARE}]
    answer = server.chat.completions.create(
        model=str(merged), messages=turns, temperature=0.1, max_tokens=4096, stream=False
    )
    assert answer.choices[0].message.content == expected


def test_the_card_names_the_programs_that_load_it(merged: Path, adapter: Path) -> None:
    for directory in (merged, adapter):
        card = (directory / "README.md").read_text()
        for call in (
            f"--prompt_extend_method local_qwen --prompt_extend_model {directory}",
            f"T2V_REWRITE_BASE_URL=http://127.0.0.1:8000/v1 T2V_REWRITE_MODEL_NAME={directory}",
            f"prompt_enhancer_llm_model_name_or_path: {directory}",
            f"--refine_caption --caption_refiner {directory}",
        ):
            assert call in card
        assert "LTX-2.5" not in card  # the toy is no Gemma
    assert f"convert_hf_to_gguf.py {merged}" in (merged / "README.md").read_text()
    assert "gguf" not in (adapter / "README.md").read_text()


def test_the_merged_form_has_what_vllm_reads(merged: Path) -> None:
    (architecture,) = AutoConfig.from_pretrained(merged).architectures
    assert architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    assert not {"adapter_config.json"} & {path.name for path in merged.iterdir()}
    with safe_open(merged / "model.safetensors", "pt") as file:
        assert set(file.keys()) < set(AutoModelForCausalLM.from_pretrained(merged).state_dict())
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert (merged / "tokenizer.json").is_file()
    assert (merged / "chat_template.jinja").read_text() == tokenizer.chat_template
    settings = GenerationConfig.from_pretrained(merged)
    assert settings.eos_token_id == tokenizer.eos_token_id
    assert settings.do_sample is False


def test_the_adapter_form_has_what_vllm_reads(adapter: Path) -> None:
    config = PeftConfig.from_pretrained(adapter)
    assert config.peft_type == "LORA"
    assert config.r in VLLM_RANKS
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(config.target_modules) <= layers
    assert (config.bias, config.use_dora, config.modules_to_save) == ("none", False, None)
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in list(file.keys()))
    assert f"max_lora_rank={config.r})" in code(adapter)[3]


def test_adapters_on_a_folder_load_from_anywhere(
    trained: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(TOY_LM, tmp_path / "models/base")
    (base / "README.md").write_text("---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n")
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        export(trained, Path("adapter"), "--merge=false", "--model.pretrained=models/base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoPeftModelForCausalLM.from_pretrained("../adapter")
    assert greedy(model, tmp_path / "adapter", refactor(BARE)) == expected
    assert extend_as_wan(Path("../adapter"), "", BARE) == expected
    card = (tmp_path / "adapter/README.md").read_text()
    assert f"LoRA adapters on top of `{base}`, trained" in card
    assert "its path on the machine that exported it, which was derived from `Qwen/Qwen2.5-7B-Instruct`" in card
    assert f'LLM("{base}", tokenizer="adapter", enable_lora=True' in card


@pytest.mark.filterwarnings("ignore:Could not find a config file in me/base")  # PEFT asks the Hub, not the cache
def test_adapters_name_a_model_of_the_hub_by_its_id(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub/models--me--base"
    shutil.copytree(TOY_LM, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hf = export(trained, tmp_path / "hf", "--merge=false", "--model.pretrained=me/base")
    assert PeftConfig.from_pretrained(hf).base_model_name_or_path == "me/base"
    card = (hf / "README.md").read_text()
    assert "LoRA adapters on top of `me/base`, trained" in card
    assert "on the machine that exported it" not in card


def test_the_card_says_where_the_weights_come_from(merged: Path, trained: Path) -> None:
    card = (merged / "README.md").read_text()
    digest = hashlib.sha256((trained / "mined/sft/train.jsonl").read_bytes()).hexdigest()
    assert f"| train | 4 | `{trained}/mined/sft/train.jsonl` | `{digest}` |" in card
    assert "| gated | 5 |" in card
    assert "weights after 40 optimiser steps" in card or "weights after 20 optimiser steps" in card
    assert re.search(r"Validation at step [24]0:\n\n\| metric \| value \|\n.*\n\| val/loss \| \d", card)
    assert f"torch {torch.__version__.split('+')[0]}" in card
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    assert metadata_load(merged / "README.md")["library_name"] == "transformers"
    assert "base_model" not in metadata_load(merged / "README.md")  # a folder is no model of the Hub
    assert "--prompt_extend_method local_qwen --prompt_extend_model" in card


def test_adapters_that_merging_would_round_off_are_exported_apart(trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    for index, (name, value) in enumerate(checkpoint["state_dict"].items()):
        if "lora_B" in name:
            value.copy_(30 * torch.randn(value.shape, generator=torch.Generator().manual_seed(index)))
    torch.save(checkpoint, tmp_path / "large.ckpt")
    large = f"--ckpt_path={tmp_path / 'large.ckpt'}"
    with pytest.raises(
        ValueError, match=r"nothing was exported\. The adapters are so large .* `--merge false` exports"
    ):
        export(trained, tmp_path / "hf", large)
    assert not (tmp_path / "hf").exists()
    apart = export(trained, tmp_path / "hf", large, "--merge=false", "--dtype=float32")
    assert (apart / "adapter_model.safetensors").is_file()


def test_what_the_base_knows_is_kept(trained: Path, tmp_path: Path) -> None:
    base = shutil.copytree(TOY_LM, tmp_path / "base")
    (base / "README.md").write_text("---\nbase_model: Qwen/Qwen2.5-7B-Instruct\n---\n")
    settings = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, repetition_penalty=1.05, eos_token_id=[2, 0], max_new_tokens=300
    )
    settings.save_pretrained(base)
    arguments = [f"--config={trained / 'config.yaml'}", f"--model.pretrained={base}", f"--output_dir={tmp_path / 'hf'}"]
    main(["export", *arguments])
    assert metadata_load(tmp_path / "hf/README.md")["base_model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert "nothing was trained" in (tmp_path / "hf/README.md").read_text()
    written = json.loads((tmp_path / "hf/generation_config.json").read_text())
    written.pop("transformers_version")
    assert written == {"do_sample": False, "eos_token_id": [2, 0], "max_new_tokens": 300, "pad_token_id": 0}


def test_records_that_were_not_trained_on_are_not_described(trained: Path, tmp_path: Path) -> None:
    others = shutil.copytree(trained / "mined/sft", tmp_path / "others")
    (others / "train.jsonl").write_text((others / "train.jsonl").read_text().replace("blue", "green"))
    with pytest.raises(ValueError, match=r"others/train.jsonl is not what the checkpoint was trained on"):
        export(trained, tmp_path / "hf", f"--data.root={others}")
    assert not (tmp_path / "hf").exists()


def test_an_evaluation_must_be_one(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no.json does not exist; expected what `python -m collect evaluate` writes"
    ):
        export(trained, tmp_path / "hf", f"--evaluation={tmp_path / 'no.json'}")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other.json is not an Evaluation: found \[\]; make it"):
        export(trained, tmp_path / "hf", f"--evaluation={tmp_path / 'other.json'}")
    (tmp_path / "rewrites.jsonl").write_text('{"candidates": []}\n')
    with pytest.raises(ValueError, match=r"rewrites.jsonl holds no rewrite of a refactorer"):
        export(trained, tmp_path / "hf", f"--rewrites={tmp_path / 'rewrites.jsonl'}")
    assert not (tmp_path / "hf").exists()


class FakeHub(ThreadingHTTPServer):
    """The routes of a model hub that pushing needs, and what was pushed: files by path, and what was deleted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files = {"adapter_config.json": b"{}", "notes.md": b"mine"}
        self.blobs: dict[str, bytes] = {}
        self.message = ""


class FakeHubHandler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer({"error": "Invalid username or password."}, status=401)
        elif self.path == "/api/whoami-v2":
            self.answer({"name": "me", "type": "user"})
        else:
            assert self.path.startswith("/api/models/me/rewriter/tree/main"), self.path
            files = self.server.files.items()
            self.answer([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files])

    def do_PUT(self) -> None:
        self.server.blobs[self.path.removeprefix("/blobs/")] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/repos/create":
            assert json.loads(body)["name"] == "rewriter"
            self.answer({"url": f"{self.server.url}/me/rewriter"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in files}
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif self.path.endswith("/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.server.url}/blobs/{each['oid']}"}}
            self.answer({"objects": objects, "transfer": "basic"})
        else:
            assert self.path == "/api/models/me/rewriter/commit/main", self.path
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    self.server.message = value["summary"]
                elif line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.blobs[value["oid"]]
                else:
                    assert line["key"] == "deletedFile"
                    del self.server.files[value["path"]]
            self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.server.url}/me/rewriter"})

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        # What the environment says of these was read when the library was imported.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        close_session()
        yield hub
        close_session()
        hub.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the Hub's library and its HTTP client
def test_an_export_with_its_evaluation_is_pushed_whole(fake_hub: FakeHub, trained: Path, tmp_path: Path) -> None:
    methods = [
        {"method": "raw", "score": {"mean": 0.345, "low": 0.26, "high": 0.43}, "intent_kept": 1.0},
        {"method": "sft", "score": {"mean": 0.9012, "low": 0.83, "high": 0.96}, "intent_kept": 0.9375},
    ]
    summary = {"metric": "alignment", "num_prompts": 48, "methods": methods}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    candidates = [{"origin": "refactored", "gate": {"passed": passed}} for passed in (True, True, False)]
    lines = [{"candidates": [candidate, {"origin": "direct", "gate": {"passed": True}}]} for candidate in candidates]
    (tmp_path / "rewrites.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = [f"--evaluation={tmp_path / 'summary.json'}", f"--rewrites={tmp_path / 'rewrites.jsonl'}"]
    hf = export(trained, tmp_path / "hf", *scores, "--push_to_hub=me/rewriter")

    written = {path.name: path.read_bytes() for path in hf.iterdir()}
    assert fake_hub.files == {**written, "notes.md": b"mine"}
    assert "SFTModule" in fake_hub.message
    card = written["README.md"].decode()
    assert "Evaluation, `alignment` on 48 held-out prompts" in card
    assert "| sft | 0.901 [0.830, 0.960] | 0.938 |" in card
    assert "2 of 3 rewrites passed (66.7%)" in card
    assert 'pipeline("text-generation", "me/rewriter")' in card


def test_preferences_are_tuned_on_an_export_and_exported_alike(
    merged: Path, trained: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    night = "soft moonlight."
    pairs = [
        Preference(
            id=content_id("pair", prompt),
            prompt=refactor(prompt),
            chosen=[{"role": "assistant", "content": caption.rpartition("with ")[0] + "with " + night}],
            rejected=[{"role": "assistant", "content": caption.rpartition("with ")[0] + "with bright daylight."}],
            margin=0.5,
            kind="video",
        )
        for prompt, caption in PAIRS.items()
    ]
    for split in ("train", "val"):
        write_records(tmp_path / f"preference/{split}.jsonl", pairs)
    config = [f"--config={trained / 'config.yaml'}", f"--trainer.default_root_dir={tmp_path}"]
    config += ["--model=models.DPOModule", f"--model.pretrained={merged}", "--model.optimizer.lr=3e-3"]
    config += ["--data=data_modules.PreferenceDataModule", f"--data.root={tmp_path / 'preference'}"]
    main(["fit", *config, "--trainer.max_steps=12", "--trainer.val_check_interval=6"])
    main(["export", *config, f"--ckpt_path={tmp_path / 'checkpoints/last.ckpt'}", f"--output_dir={tmp_path / 'hf'}"])

    answer = extend_as_wan(tmp_path / "hf", "", BARE)
    assert answer.endswith(night) != expected.endswith(night)
    assert answer == LMRewriter(TransformersLM(str(tmp_path / "hf")), FakeGate()).rewrite([Prompt("0", BARE)])[0]
    assert (tmp_path / "hf/chat_template.jinja").read_text() == (merged / "chat_template.jinja").read_text()
    assert "trained by `DPOModule` on 4 records; weights after 12" in (tmp_path / "hf/README.md").read_text()


def test_pushing_is_refused_before_anything_is_exported(
    fake_hub: FakeHub, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, *arguments: str) -> None:
        with pytest.raises(ValueError, match=message):
            export(trained, tmp_path / "hf", *arguments)
        assert not (tmp_path / "hf").exists()

    refused("adapters on the directory .* can't be loaded from the Hub", "--push_to_hub=me/rewriter", "--merge=false")
    refused("Repo id must", "--push_to_hub=me/my/rewriter")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("127.0.0.1:.* does not let this token in .*Invalid user token", "--push_to_hub=me/rewriter")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    refused("can't push to me/rewriter without a token; run `hf auth login`", "--push_to_hub=me/rewriter")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE=1 forbids it", "--push_to_hub=me/rewriter")
