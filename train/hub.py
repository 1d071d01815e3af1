"""An exported directory as a repository of the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id

# What an earlier push may have left and would now be loaded beside the new files.
REPLACED = ["*.safetensors", "*.json", "*.jinja"]


def require_access(repo: str) -> None:
    """Make sure, before any work, that the Hub can be written to.

    Raises:
        ValueError: if the repository's name is none, the Hub is switched off, or there is no valid token.
    """
    validate_repo_id(repo)
    if is_offline_mode():
        raise ValueError(f"can't push to {repo}: HF_HUB_OFFLINE=1 forbids it; set HF_HUB_OFFLINE=0 to push.")
    if get_token() is None:
        raise ValueError(
            f"can't push to {repo} without a token; run `hf auth login` or set HF_TOKEN, then export again."
        )
    api = HfApi()
    try:
        api.whoami()
    except HTTPError as error:
        raise ValueError(f"can't push to {repo}: {api.endpoint} does not let this token in ({error}).") from error


def push(directory: Path, repo: str, message: str) -> None:
    """Upload a directory, in place of an earlier export there; the repository is made if it does not exist.

    Raises:
        ConnectionError: if the Hub refuses or cannot be reached; the directory stays.
    """
    api = HfApi()
    try:
        name = api.create_repo(repo, exist_ok=True).repo_id
        api.upload_folder(repo_id=name, folder_path=directory, commit_message=message, delete_patterns=REPLACED)
    except (HTTPError, RuntimeError) as error:  # uploads of weights that fail are a RuntimeError
        raise ConnectionError(
            f"{directory} was exported, but not pushed to {repo} ({error}); `hf upload {repo} {directory}` tries again."
        ) from error
