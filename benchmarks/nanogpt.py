"""nanoGPT's CPU recipe in PyTorch: what time_to_loss.py runs beside ours, as its own process.

    python benchmarks/nanogpt.py TRAIN TEST SEED

The model and the training of github.com/karpathy/nanoGPT's README, "I only have a macbook":
learned positions, head tied to the embedding, no biases, no dropout, AdamW with weight decay on
matrices, cosine schedule. In its favour: AdamW is fused, and nothing is evaluated, logged or
saved on the way. Prints "trained" at that moment, then its loss on all of TEST.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

T, C, LAYERS, HEADS = 64, 128, 4, 4
BATCH, STEPS = 12, 2000
RATE, LAST_RATE, WARMUP = 1e-3, 1e-4, 100


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(C, bias=False) for _ in range(2))
        self.query_key_value = nn.Linear(C, 3 * C, bias=False)
        self.projection = nn.Linear(C, C, bias=False)
        self.up, self.down = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x):
        rows = x.shape[0]
        q, k, v = (y.view(rows, T, HEADS, C // HEADS).transpose(1, 2)
                   for y in self.query_key_value(self.attention_norm(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).reshape(rows, T, C))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(C, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                into_stream = "projection" in name or "down" in name
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS if into_stream else 1))

    def loss(self, windows):
        x = self.tokens(windows[:, :-1]) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def rate(step):
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * done)) * (RATE - LAST_RATE)


def main():
    train, test = (Path(path).read_text(encoding="utf-8") for path in sys.argv[1:3])
    ids = {letter: i for i, letter in enumerate(sorted(set(train + test)))}
    train, test = (torch.tensor([ids[letter] for letter in text]) for text in (train, test))
    torch.manual_seed(int(sys.argv[3]))
    model = GPT(len(ids))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": gains, "weight_decay": 0.0}],
                                  betas=(0.9, 0.99), fused=True)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        starts = torch.randint(len(train) - T, (BATCH, 1))
        loss = model.loss(train[starts + torch.arange(T + 1)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print("trained", flush=True)
    windows = test[torch.arange(0, len(test) - T, T)[:, None] + torch.arange(T + 1)]
    with torch.no_grad():
        losses = [model.loss(part).item() * len(part) for part in windows.split(256)]
    print(sum(losses) / len(windows))


if __name__ == "__main__":
    main()
