"""Batched tensors in, tensors out: the only part that knows torch and nothing else."""

from surgery.linalg.elimination import cheapest_first
from surgery.linalg.metrics import probed_product_errors, product_error, product_norm
from surgery.linalg.ordered import deleted_prices, refitted_prices
from surgery.linalg.orthonormal import (
    OrthonormalProduct,
    orthonormal_product,
    orthonormal_rows,
    orthonormality_defect,
)
from surgery.linalg.product_svd import ProductSVD, core_svd, product_svd, qr_root
from surgery.linalg.truncated_svd import TruncatedSVD, truncated_svd

__all__ = [
    "OrthonormalProduct",
    "ProductSVD",
    "TruncatedSVD",
    "cheapest_first",
    "core_svd",
    "deleted_prices",
    "orthonormal_product",
    "orthonormal_rows",
    "orthonormality_defect",
    "probed_product_errors",
    "product_error",
    "product_norm",
    "product_svd",
    "qr_root",
    "refitted_prices",
    "truncated_svd",
]
