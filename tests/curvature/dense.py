"""Small problems whose Hessian is known in full."""

import torch
from torch import nn

from focalcal.curvature import LossSurface


class Problem:
    """A net, rows in batches of unequal size, and the dense Hessian of a mean loss by torch.func."""

    def __init__(self, activation=nn.ReLU, n=60, classes=4, steps=60, seed=0):
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, classes)).double()
        self.x = torch.randn(n, 5, dtype=torch.double)
        self.y = (self.x[:, :classes] + 0.7 * torch.randn(n, classes, dtype=torch.double)).argmax(1)
        optimizer = torch.optim.Adam(self.net.parameters(), 0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.net(self.x), self.y).backward()
            optimizer.step()
        self.batches = list(zip(self.x.split(25), self.y.split(25), strict=True))

    def surface(self, loss, **options):
        return LossSurface(self.net, loss, self.batches, **options)

    def function(self, loss):
        """The mean loss as a function of the flat parameters, and the parameters."""
        named = dict(self.net.named_parameters())
        sizes, shapes = [t.numel() for t in named.values()], [t.shape for t in named.values()]

        def value(flat, rows=slice(None)):
            parts = [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes)]
            values = dict(zip(named, parts))
            return loss(torch.func.functional_call(self.net, values, (self.x[rows],)), self.y[rows])

        return value, torch.cat([t.detach().flatten() for t in named.values()])

    def hessian(self, loss):
        value, at = self.function(loss)
        return torch.func.hessian(value)(at)

    def row_hessians(self, loss):
        value, at = self.function(loss)
        each = [torch.func.hessian(lambda flat, i=i: value(flat, [i]))(at) for i in range(len(self.y))]
        return torch.stack(each)
