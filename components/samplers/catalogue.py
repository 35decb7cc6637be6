"""The parts of samplers by family and name, each with its config, its code and its paper."""

from __future__ import annotations

from typing import Any

from components.plugins import Plugin
from components.samplers import config as c

MDLM = "Simple and Effective Masked Diffusion Language Models, arXiv 2406.07524"
FHS = "Masked Diffusion Models are Secretly Time-Agnostic Masked Models, arXiv 2409.02908"
MASKGIT = "MaskGIT: Masked Generative Image Transformer, arXiv 2202.04200"
LLADA = "Large Language Diffusion Models, arXiv 2502.09992"
FAST = "Fast-dLLM, arXiv 2505.22618"
EB = "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking, arXiv 2505.24857"
MARGIN = "Train for the Worst, Plan for the Best, arXiv 2502.06768"
DREAM = "Dream 7B: Diffusion Large Language Models, arXiv 2508.15487"
POLICY = "Learning Unmasking Policies for Diffusion Language Models, arXiv 2512.09106"
PROSECO = "Learn from Your Mistakes: Self-Correcting Masked Diffusion Models, arXiv 2602.11590"
REMDM = "Remasking Discrete Diffusion Models with Inference-Time Scaling, arXiv 2503.00307"
DFM = "Discrete Flow Matching, arXiv 2407.15595"
PRISM = "Fine-Tuning Masked Diffusion for Provable Self-Correction (PRISM), arXiv 2510.01384"
DSC = "Teach Diffusion Language Models to Learn from Their Own Mistakes (BackPlay), arXiv 2601.06428"
FREE = "Training-Free Self-Correction for Multimodal Masked Diffusion Models, arXiv 2602.02927"
CMLM = "Mask-Predict: Parallel Decoding of Conditional Masked Language Models, arXiv 1904.09324"
SMART = "Semi-Autoregressive Training Improves Mask-Predict Decoding, arXiv 2001.08785"
LLADA21 = "LLaDA2.1: Speeding Up Text Diffusion via Token Editing, arXiv 2602.08676"
MOI = "Text Generation Beyond Discrete Token Sampling, arXiv 2505.14827"
SOFT = "Soft-Masked Diffusion Language Models, arXiv 2510.17206"
DSL = "Discrete Stochastic Localization, arXiv 2602.16169"
SMC = "Self-Rewarding Sequential Monte Carlo for Masked Diffusion Language Models, arXiv 2602.01849"
FK = "A General Framework for Inference-time Scaling and Steering of Diffusion Models, arXiv 2501.06848"
PG = "Inference-Time Scaling of Diffusion Language Models via Trajectory Refinement, arXiv 2507.08390"
CFG = "Classifier-Free Diffusion Guidance, arXiv 2207.12598"

HERE = "components.samplers"


def part(config: type, build: str, summary: str, paper: str = "", needs: tuple[str, ...] = ()) -> Plugin:
    return Plugin(config, f"{HERE}.{build}", summary, paper, needs)


PARTS: dict[str, dict[str, Plugin]] = {
    "schedule": {
        "ancestral": part(c.AncestralConfig, "schedule:Ancestral", "unmask ticks drawn ahead on a linear grid", MDLM),
        "first_hitting": part(c.FirstHittingConfig, "schedule:FirstHitting", "one call a reveal, exact", FHS),
        "fixed_count": part(c.FixedCountConfig, "schedule:FixedCount", "the same number at every tick", LLADA),
        "cosine": part(c.CosineConfig, "schedule:Cosine", "few at first, many late", MASKGIT),
        "linear": part(c.LinearConfig, "schedule:Linear", "an even line of masks that stay", CMLM),
        "threshold": part(c.ThresholdConfig, "schedule:Threshold", "all above a confidence, at least one", FAST),
        "factor": part(c.FactorConfig, "schedule:Factor", "n tokens while (n + 1)(1 - c_n) stays below a factor", FAST),
        "entropy_bound": part(c.EntropyBoundConfig, "schedule:EntropyBound", "as many as an entropy bound allows", EB),
        "learned": part(
            c.LearnedConfig, "learned:Learned", "a policy network reveals or waits, position by position", POLICY,
            ("policy",),
        ),
        "at_end": part(c.AtEndConfig, "schedule:AtEnd", "everything at the last tick", DSL),
    },
    "unmask": {
        "random": part(c.RandomConfig, "unmask:RandomOrder", "uniformly random positions", MDLM),
        "confidence": part(c.ConfidenceConfig, "unmask:ByConfidence", "most probable drawn token first", MASKGIT),
        "margin": part(c.MarginConfig, "unmask:ByMargin", "largest gap between the best two first", MARGIN),
        "entropy": part(c.EntropyConfig, "unmask:ByEntropy", "least uncertain first", DREAM),
    },
    "corrector": {
        "none": part(c.NoCorrectorConfig, "corrector:NoCorrector", "a written token stays"),
        "proseco": part(
            c.ProsecoCorrectorConfig, "proseco:ProsecoCorrector",
            "rewrite the draft with the network's own argmax, S times, every omega ticks", PROSECO,
            ("visible_supervision",),
        ),
        "remdm": part(c.RemdmConfig, "remdm:Remdm", "remask at random; the schedule makes up for it", REMDM),
        "remdm_loop": part(c.RemdmLoopConfig, "remdm:RemdmLoop", "remask at a constant share of masks", REMDM),
        "prism": part(c.PrismConfig, "prism:Prism", "remask the r lowest scores, reveal r more", PRISM),
        "dsc": part(c.DscConfig, "dsc:Dsc", "remask errors above a threshold, with a block list and rollback", DSC),
        "free_correction": part(
            c.FreeCorrectionConfig, "free_correction:FreeCorrection", "swap the lowest scores for fresh tokens", FREE
        ),
        "random_swap": part(
            c.RandomSwapConfig, "free_correction:FreeCorrection", "the control: swap random tokens", FREE
        ),
        "mask_predict": part(
            c.MaskPredictConfig, "mask_predict:MaskPredict", "mask the least confident of all again", CMLM
        ),
        "smart": part(
            c.SmartConfig, "mask_predict:MaskPredict", "the same, re-predicting visible tokens too", SMART,
            ("visible_supervision",),
        ),
        "token_edit": part(
            c.TokenEditConfig, "token_edit:TokenEdit", "change tokens that the network disagrees with", LLADA21
        ),
    },
    "inputs": {
        "hard": part(c.HardConfig, "inputs:Hard", "tokens and masks"),
        "mixture": part(c.MixtureConfig, "mixture:MixtureOfInputs", "written tokens mixed with their distribution", MOI),
        "soft_mask": part(c.SoftMaskConfig, "mixture:SoftMask", "masks mixed with what is expected there", SOFT),
        "dsl_sde": part(c.DslSdeConfig, "dsl_sde:DslSde", "noisy embeddings, integrated", DSL, ("dsl_encoder",)),
    },
    "search": {
        "single": part(c.SingleConfig, "sampler:RowSampler", "one chain a row"),
        "best_of": part(c.BestOfConfig, "search:BestOf", "independent chains, the best is kept"),
        "self_rewarding": part(c.SelfRewardingConfig, "self_rewarding:SelfRewarding", "weights by the network's own belief", SMC),
        "reward": part(
            c.RewardSearchConfig, "particle_gibbs:RewardSearch", "weights by expected reward; sweeps with a reference", PG
        ),
    },
}  # fmt: skip


def part_name(family: str, config: Any) -> str:
    """The name under which a part's config is listed."""
    return next(name for name, plugin in PARTS[family].items() if plugin.config is type(config))


def needs(config: c.SamplerConfig) -> tuple[str, ...]:
    """What a checkpoint must bring for this sampler: the union over its parts."""
    found: list[str] = []
    for family in PARTS:
        section = getattr(config, family)
        found += PARTS[family][part_name(family, section)].needs
        found += getattr(section, "needs", ())
    if config.guidance.gamma and config.guidance.null == "label":
        found.append("labels")
    if config.encoder == "dsl":
        found.append("dsl_encoder")
    return tuple(dict.fromkeys(found))
