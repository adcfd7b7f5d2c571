"""The same model in PyTorch: eager, fused AdamW, scaled_dot_product_attention."""

import torch
import torch.nn.functional as F
from torch import nn

from femtogpt.tensors import views


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

    def __init__(self, config, tokens, batch_size, threads, precision="float32"):
        torch.set_num_threads(threads)
        self.model = GPT(config)
        count = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.config, self.batch_size, self.parameters = config, batch_size, count
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        self.tokens = torch.from_numpy(tokens.astype("int64"))

    def step(self):
        T = self.config.num_tokens
        starts = torch.randint(0, len(self.tokens) - T, (self.batch_size, 1))
        windows = self.tokens[starts + torch.arange(T + 1)]
        with self.precision:
            logits = self.model(windows[:, :-1]).float()
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), windows[:, 1:].reshape(-1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class CachedDecoder:
    """Generates with a key/value cache that was allocated beforehand and slides."""

    def __init__(self, config, parameters):
        """parameters: ours, flat."""
        T, hs = config.num_tokens, config.head_size
        self.config, self.model = config, GPT(config).eval()
        copy_parameters(self.model, config, parameters)
        self.keys = torch.zeros(config.num_layers, 1, config.num_heads, T, hs)
        self.values = torch.zeros_like(self.keys)
        half = hs // 2
        self.frequencies = config.rotary_base ** (-torch.arange(half) / half)

    @torch.inference_mode()
    def generate(self, count, threads):
        """The likeliest ids after token 0, a list."""
        torch.set_num_threads(threads)
        angle = torch.outer(torch.arange(count), self.frequencies)
        cos = torch.cat((angle.cos(), angle.cos()), 1)
        sin = torch.cat((-angle.sin(), angle.sin()), 1)
        token, ids = torch.zeros(1, dtype=torch.long), []
        for position in range(count):
            token = self.feed(token, position, cos[position], sin[position]).argmax(-1)
            ids.append(token.item())
        return ids

    def feed(self, token, position, cos, sin):
        T, C, hs = self.config.num_tokens, self.config.embedding_degree, self.config.head_size
        slot, filled = position % T, min(position + 1, T)
        x = self.model.embedding(token)
        for block, keys, values in zip(self.model.blocks, self.keys, self.values, strict=True):
            qkv = block.query_key_value(block.attention_norm(x)).view(1, 3, -1, hs)
            qk = qkv[:, :2] * cos + torch.roll(qkv[:, :2], hs // 2, -1) * sin
            keys[:, :, slot], values[:, :, slot] = qk[:, 1], qkv[:, 2]
            y = F.scaled_dot_product_attention(qk[:, 0].unsqueeze(2), keys[:, :, :filled],
                                               values[:, :, :filled])
            x = x + block.projection(y.view(1, C))
            x = x + block.down(F.gelu(block.up(block.mlp_norm(x)), approximate="tanh"))
        return self.model.head(self.model.norm(x))


@torch.no_grad()
def copy_parameters(model, config, parameters):
    """Makes a GPT the model of our flat parameters (recipe standard, rotary positions)."""
    p = {name: torch.from_numpy(value) for name, value in
         views(parameters, config)._asdict().items()}
    pairs = [(model.embedding.weight, p["token_embedding"]),
             (model.head.weight, p["head_weight"].T), (model.head.bias, p["head_bias"]),
             (model.norm.weight, p["final_norm_gain"]), (model.norm.bias, p["final_norm_bias"])]
    for l, block in enumerate(model.blocks):
        for name in ("query_key_value", "projection", "up", "down"):
            pairs.append((getattr(block, name).weight, p[f"{name}_weight"][l].T))
        for name in ("projection", "up", "down"):
            pairs.append((getattr(block, name).bias, p[f"{name}_bias"][l]))
        for name in ("attention_norm", "mlp_norm"):
            pairs.append((getattr(block, name).weight, p[f"{name}_gain"][l]))
            pairs.append((getattr(block, name).bias, p[f"{name}_bias"][l]))
    for theirs, value in pairs:
        theirs.copy_(value)
