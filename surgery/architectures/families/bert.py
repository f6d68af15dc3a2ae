"""BERT: encoder self-attention with biases everywhere; o lives in ``attention.output``."""

from __future__ import annotations

from surgery.architectures.base import (
    BASE,
    CAUSAL,
    Architecture,
    AttentionKind,
    ModelClass,
    Preset,
    Projection,
    Shape,
)
from surgery.architectures.shapes import affine, norm

POOLER = affine("pooler.dense", "hidden_size", "hidden_size")
NEXT_SENTENCE = affine("/cls.seq_relationship", 2, "hidden_size")
CLASSIFIER = affine("/classifier", "num_labels", "hidden_size")
PREDICTIONS: dict[str, Shape] = {
    "/cls.predictions.bias": ("vocab_size",),
    **affine("/cls.predictions.transform.dense", "hidden_size", "hidden_size"),
    **norm("/cls.predictions.transform.LayerNorm", "hidden_size"),
    **affine("/cls.predictions.decoder", "vocab_size", "hidden_size"),
}
TIED = {
    "/cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "/cls.predictions.decoder.bias": "/cls.predictions.bias",
}

BERT = Architecture(
    model_type="bert",
    title="BERT",
    input="text",
    predicts="masked token",
    pipeline="fill-mask",
    prefixes=("bert.", ""),
    attentions=(
        AttentionKind(
            scope="encoder",
            path="encoder.layer.{layer}.attention",
            layers="num_hidden_layers",
            heads="num_attention_heads",
            kv_heads="num_attention_heads",
            width="hidden_size",
            q=Projection("self.query", bias=True),
            k=Projection("self.key", bias=True),
            v=Projection("self.value", bias=True),
            o=Projection("output.dense", bias=True),
        ),
    ),
    linears={
        "up": ("encoder.layer.*.intermediate.dense.*",),
        "down": ("encoder.layer.*[0-9].output.dense.*",),
    },
    tensors={
        "embeddings.word_embeddings.weight": ("vocab_size", "hidden_size"),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", "hidden_size"),
        "embeddings.token_type_embeddings.weight": ("type_vocab_size", "hidden_size"),
        **norm("embeddings.LayerNorm", "hidden_size"),
        **norm("encoder.layer.{layer}.attention.output.LayerNorm", "hidden_size"),
        **affine("encoder.layer.{layer}.intermediate.dense", "intermediate_size", "hidden_size"),
        **affine("encoder.layer.{layer}.output.dense", "hidden_size", "intermediate_size"),
        **norm("encoder.layer.{layer}.output.LayerNorm", "hidden_size"),
    },
    untouched=(
        "embeddings.*",
        "encoder.layer.*.LayerNorm.*",
        "pooler.dense.*",
        "/cls.*",
        "/classifier.*",
        "/qa_outputs.*",
    ),
    towers={"encoder": "encoder.*"},
    preset=Preset(
        scope="encoder",
        pairs=("qk", "vo"),
        fraction=0.25,
        reason="a quarter of all attention",
    ),
    classes=(
        ModelClass(
            "BertForPreTraining",
            {**POOLER, **PREDICTIONS, **NEXT_SENTENCE},
            TIED,
            autos=("AutoModelForPreTraining",),
        ),
        ModelClass("BertForMaskedLM", PREDICTIONS, TIED, autos=("AutoModelForMaskedLM",)),
        ModelClass("BertLMHeadModel", PREDICTIONS, TIED, autos=(CAUSAL,)),
        ModelClass(
            "BertForNextSentencePrediction",
            {**POOLER, **NEXT_SENTENCE},
            autos=("AutoModelForNextSentencePrediction",),
        ),
        ModelClass(
            "BertForSequenceClassification",
            {**POOLER, **CLASSIFIER},
            autos=("AutoModelForSequenceClassification",),
        ),
        ModelClass(
            "BertForMultipleChoice",
            {**POOLER, **affine("/classifier", 1, "hidden_size")},
            autos=("AutoModelForMultipleChoice",),
        ),
        ModelClass(
            "BertForTokenClassification", CLASSIFIER, autos=("AutoModelForTokenClassification",)
        ),
        ModelClass(
            "BertForQuestionAnswering",
            affine("/qa_outputs", "num_labels", "hidden_size"),
            autos=("AutoModelForQuestionAnswering",),
        ),
        ModelClass("BertModel", POOLER, autos=(BASE, "AutoModelForTextEncoding")),
    ),
    # published files hold the whole pre-training, whatever class they name
    ignored=("embeddings.position_ids", "pooler.*", "/cls.seq_relationship.*"),
    defaults={
        "tie_word_embeddings": True,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "vocab_size": 30522,
        "type_vocab_size": 2,
        "max_position_embeddings": 512,
    },
    closing={
        "position_embedding_type": (
            "absolute",
            "qk",
            "relative position terms multiply q and k outside their product",
        ),
    },
    undescribed={
        "add_cross_attention": (False, "cross-attention blocks of BERT decoders are not described"),
    },
)
