"""Batched tensors in, tensors out: the only part that knows torch and nothing else."""

from surgery.linalg.metrics import probed_product_errors, product_error, product_norm
from surgery.linalg.product_svd import ProductSVD, product_svd, qr_root

__all__ = [
    "ProductSVD",
    "probed_product_errors",
    "product_error",
    "product_norm",
    "product_svd",
    "qr_root",
]
