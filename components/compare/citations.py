"""Whose ideas the methods and evaluations are."""

from __future__ import annotations

METHODS = {
    "dino": ("Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021", "2104.14294"),
    "ibot": ("Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022", "2111.07832"),
    "odis": ("Object-level Self-Distillation for Vision Pretraining (ODIS), 2025", "2506.05409"),
    "cross_time_ibot": ("Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022", "2111.07832"),
    "cross_time_odis": ("Object-level Self-Distillation for Vision Pretraining (ODIS), 2025", "2506.05409"),
    "dora": (
        "Venkataramanan et al., Is ImageNet worth 1 video? Learning strong image encoders from 1 long unlabelled "
        "video, ICLR 2024",
        "2310.08584",
    ),
    "timet": (
        "Salehi et al., Time Does Tell: Self-Supervised Time-Tuning of Dense Image Representations, ICCV 2023",
        "2308.11796",
    ),
    "tcore": (
        "Liu et al., When the Future Becomes the Past: Taming Temporal Correspondence for Self-supervised Video "
        "Representation Learning, CVPR 2025",
        "2503.15096",
    ),
    "next_frame": ("Simon, Kim, Yeom, self-distillation towards the next frame of a video, 2025", "2507.19272"),
}
TASKS = {
    "knn": ("k-NN on frozen features as in Caron et al., ICCV 2021", "2104.14294"),
    "parts": (
        "Zhou et al., Adaptive Temporal Encoding Network for Video Instance-level Human Parsing, 2018",
        "1808.00661",
    ),
    "pose": ("joints of JHMDB by propagation as in Jabri et al., NeurIPS 2020", "2006.14613"),
    "tracking": (
        "Huang et al., GOT-10k: A Large High-Diversity Benchmark for Generic Object Tracking, 2018",
        "1810.11981",
    ),
    "vos": ("Pont-Tuset et al., The 2017 DAVIS Challenge on Video Object Segmentation, 2017", "1704.00675"),
    "discovery": (
        "Siméoni et al., Localizing Objects with Self-Supervised Transformers and no Labels, BMVC 2021",
        "2109.14279",
    ),
    "coco": ("Cai, Vasconcelos, Cascade R-CNN, 2019, on a ViT as in Zhou et al., ICLR 2022", "1906.09756"),
    "voc_linear": ("linear segmentation of frozen patch features as in Salehi et al., ICCV 2023", "2308.11796"),
    "video_clustering": ("clustering of frozen patch features of videos as in Salehi et al., ICCV 2023", "2308.11796"),
    "voc_clustering": ("overclustering of frozen patch features as in Ziegler and Asano, CVPR 2022", "2204.13101"),
    "foreground": ("cluster-based foreground extraction of Ziegler and Asano, CVPR 2022", "2204.13101"),
    "retrieval": ("dense nearest neighbours as in Balazevic et al., NeurIPS 2023", "2306.01667"),
    "voc_fcn": ("a convolutional head on frozen patch features as in Ziegler and Asano, CVPR 2022", "2204.13101"),
    "linear": ("linear classification of frozen features as in Caron et al., ICCV 2021", "2104.14294"),
    "ade_linear": ("linear scene parsing of frozen features as in Oquab et al., DINOv2, 2023", "2304.07193"),
    "ade_upernet": ("Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018", "1807.10221"),
}


def cited(methods: list[str], tasks: list[str]) -> list[tuple[str, str, str]]:
    """(name, text, arXiv number) of each method and task that has one, in the order given, each paper once a name."""
    known = {**{m: METHODS[m] for m in methods if m in METHODS}, **{t: TASKS[t] for t in tasks if t in TASKS}}
    return [(name, text, number) for name, (text, number) in known.items()]
