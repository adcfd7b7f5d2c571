"""The same model in PyTorch: eager, fused AdamW, scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cos, sin):
        B, T, C = x.shape
        qkv = self.query_key_value(self.attention_norm(x))
        q, k, v = qkv.view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k = (turn(y, cos, sin) for y in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


def turn(x, cos, sin):
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        V, C = config.vocab_size, config.embedding_degree
        self.embedding = nn.Embedding(V, C)
        self.blocks = nn.ModuleList(Block(C, config.num_heads) for _ in range(config.num_layers))
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, V)
        half = config.head_size // 2
        angle = torch.outer(torch.arange(config.num_tokens),
                            config.rotary_base ** (-torch.arange(half) / half))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


class Stepper:
    """step() trains one batch of random windows."""

    def __init__(self, config, tokens, batch_size, threads):
        torch.set_num_threads(threads)
        self.model = GPT(config)
        count = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.config, self.batch_size, self.parameters = config, batch_size, count
        self.tokens = torch.from_numpy(tokens.astype("int64"))

    def step(self):
        T = self.config.num_tokens
        starts = torch.randint(0, len(self.tokens) - T, (self.batch_size, 1))
        windows = self.tokens[starts + torch.arange(T + 1)]
        logits = self.model(windows[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), windows[:, 1:].reshape(-1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
