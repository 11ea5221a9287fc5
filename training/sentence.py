"""The pretrained model in torch as its export sees it: token ids in, pooled and normalised vectors out."""

import inspect

import numpy as np
import numpy.typing as npt
import torch
import transformers

from encoder.batch import TokenIds
from training.sources import ExportRefused, Source

_FAR = -1e4
"""Added to the attention score of a token of another text: no real score outweighs it, and half precision holds it."""


class SentenceModule(torch.nn.Module):
    """A transformer with pooling and L2 normalisation: (b, t) int64 ids and mask to (b, d) float32 unit rows."""

    def __init__(self, model: torch.nn.Module, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self._names = inspect.signature(model.forward).parameters.keys()

    @property
    def packable(self) -> bool:
        """Whether a packed form can be tried: positions can be given, and pooling needs only a sum over tokens."""
        return "position_ids" in self._names and self.pooling in ("mean", "cls")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors of a padded batch."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **self.token_types(input_ids))
        hidden: torch.Tensor = output.last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        if self.pooling == "cls":
            vectors = hidden[:, 0]
        elif self.pooling == "max":
            vectors = hidden.masked_fill(mask == 0, -1e9).amax(dim=1)
        else:
            weights = mask.to(hidden.dtype)
            vectors = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(vectors, dim=-1)

    def run(self, tokens: TokenIds) -> npt.NDArray[np.float32]:
        """`forward` of one batch of token ids."""
        ids, mask = padded(tokens)
        with torch.inference_mode():
            vectors: npt.NDArray[np.float32] = self(ids, mask).numpy()
        return vectors

    def token_types(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's input of token types, all of the first type, where it has one."""
        return {"token_type_ids": torch.zeros_like(input_ids)} if "token_type_ids" in self._names else {}


class PackedModule(torch.nn.Module):
    """The same for packed batches: (r, t) int64 ids, positions and owners (see `encoder.batch`) to (n, d) unit rows.

    A further input, (n,) int64, counts the texts from 0: how many vectors are wanted.
    """

    def __init__(self, module: SentenceModule) -> None:
        super().__init__()
        self.model = module.model
        self._module = [module]  # in a list, so that its weights are not there twice
        # RoBERTa and its kin count positions from behind the number of the padding token.
        embeddings = getattr(module.model, "embeddings", None)
        shifted = hasattr(embeddings, "create_position_ids_from_input_ids")
        self.first = int(getattr(embeddings, "padding_idx", -1)) + 1 if shifted else 0

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, owners: torch.Tensor, texts: torch.Tensor
    ) -> torch.Tensor:
        """Sentence vectors of a packed batch."""
        own = owners[:, None, :, None] == owners[:, None, None, :]
        hidden: torch.Tensor = self.model(
            input_ids=input_ids,
            attention_mask=torch.where(own, 0.0, _FAR),
            position_ids=positions + self.first,
            **self._module[0].token_types(input_ids),
        ).last_hidden_state
        member = texts[:, None] == owners.reshape(-1)[None, :]
        if self._module[0].pooling == "cls":
            member = member & (positions.reshape(-1) == 0)[None, :]
        shares = member.to(hidden.dtype)
        vectors = (shares @ hidden.reshape(-1, hidden.shape[-1])) / shares.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return torch.nn.functional.normalize(vectors, dim=-1)


def load_module(source: Source) -> SentenceModule:
    """The source's model in torch, in float32 and without its dropout.

    Raises:
        ExportRefused: It cannot be loaded.
    """
    try:
        model = transformers.AutoModel.from_pretrained(
            source.folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except Exception as error:  # transformers raises many kinds
        raise ExportRefused(f"the model cannot be loaded: {type(error).__name__}: {error}") from error
    return SentenceModule(model, source.pooling).eval()


def padded(tokens: TokenIds) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, t) int64 of one batch, t the longest text; what stands where the mask is 0 does not matter."""
    width = max(map(len, tokens))
    rows = [[*row, *[0] * (width - len(row))] for row in tokens]
    lengths = torch.tensor([len(row) for row in tokens])
    return torch.tensor(rows), (torch.arange(width)[None, :] < lengths[:, None]).to(torch.int64)
