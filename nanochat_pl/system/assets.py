"""The registry of all data any stage reads that is not made here: where it comes from, what it is, where it goes.

    CORPORA   texts for pretraining, by name; below data/<name>/
    TASKS     conversations, problems and word lists, by their place below tasks/; what a task calls its `asset`

Facts only; nothing is opened or downloaded here. `fetching.py` downloads, `corpus.py` and `tasks/` read. A revision is
a commit wherever one is known, so that the same file is fetched in a year; `main` stands where none is, and the
commit that it was at the first fetch is kept in the corpus's manifest. The place to pin it is here.

Digests are those the hub shows for these commits, git's own for the list of words, and the published one of the
archive with CORE's tasks.
"""

from __future__ import annotations

from typing import NamedTuple

CORE = "core"


class RemoteFile(NamedTuple):
    """One file and where it comes from.

    Attributes:
        target: where it goes, below the base directory.
        address: its name in the repository or the archive, or its address on the web.
        sha256: of its content, in hex; "" where nobody publishes it and the hub is asked instead.
        git_blob: git's name for its content (a sha1, in hex), where that is what is known.
    """

    target: str
    address: str
    sha256: str = ""
    git_blob: str = ""


class Asset(NamedTuple):
    """Files that are fetched together.

    Attributes:
        name: for people, and for the tasks that read it.
        files: what lies on the disk in the end.
        about_bytes: roughly, in all; the exact size is known when the server is asked.
        licence: under which terms it may be used.
        repo: id of the data set on the Hugging Face hub; "" for files from elsewhere on the web.
        revision: of the repository, a commit where known.
        columns: that a parquet file must have.
        archive: the zip that holds the files, where they are not fetched one by one.
    """

    name: str
    files: tuple[RemoteFile, ...]
    about_bytes: int
    licence: str
    repo: str = ""
    revision: str = ""
    columns: tuple[str, ...] = ()
    archive: RemoteFile | None = None

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return self.repo or (self.archive or self.files[0]).address.split("/")[2]


class CorpusAsset(NamedTuple):
    """One named corpus.

    Attributes:
        name: what a configuration writes, and the folder's name below `data/`.
        source: where it comes from, for people.
        dataset_id: id of the data set on the Hugging Face hub; None for a corpus made here.
        revision: of the data set.
        file_pattern: name of shard number i, `file_pattern % i`.
        shards: how many there are in all; None where the user decides.
        bytes_per_shard: about how large one is on disk.
        validation_file: the shard that is validation where there is no manifest; None if the manifest says.
        licence: under which terms it may be used.
        obtain: the command that brings it here, `{config}` for the stage's file.
    """

    name: str
    source: str
    dataset_id: str | None
    revision: str
    file_pattern: str
    shards: int | None
    bytes_per_shard: int
    validation_file: str | None
    licence: str
    obtain: str


CORPORA: dict[str, CorpusAsset] = {
    asset.name: asset
    for asset in (
        CorpusAsset(
            name="fineweb_edu",
            source="FineWeb-Edu sample-100BT, shuffled",
            dataset_id="karpathy/fineweb-edu-100b-shuffle",
            revision="main",  # its commit is not known here; pin it in this line
            file_pattern="shard_%05d.parquet",
            shards=1823,
            bytes_per_shard=100_000_000,
            validation_file="shard_01822.parquet",  # pinned: bits per byte compare only on the same text
            licence="ODC-By 1.0",
            obtain="python cli.py data fetch --for {config}",
        ),
        CorpusAsset(
            name="world",
            source="the embedded world, made on this machine",
            dataset_id=None,
            revision="",
            file_pattern="shard_%05d.parquet",
            shards=None,
            bytes_per_shard=500_000,
            validation_file=None,
            licence="MIT, as this program",
            obtain="python cli.py data generate world",
        ),
    )
}


def corpus_shards(corpus: CorpusAsset, numbers: set[int]) -> Asset:
    """Return some shards of a corpus on the hub, and the one for validation, as files to be fetched.

    Args:
        corpus: one that comes from the hub.
        numbers: of shards for training.
    """
    names = sorted({*(corpus.file_pattern % number for number in numbers), corpus.validation_file})
    return Asset(
        corpus.name,
        tuple(RemoteFile(f"data/{corpus.name}/{name}", name) for name in names),
        len(names) * corpus.bytes_per_shard,
        corpus.licence,
        corpus.dataset_id,
        corpus.revision,
        columns=("text",),
    )


ARC_REVISION = "210d026faf9955653af8916fad021475a3f00453"
GSM8K_REVISION = "740312add88f781978c0658806c59bc2815b9866"
HUMANEVAL_REVISION = "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"
MMLU_REVISION = "c30699e8356da336a370243923dbaf21066bb9fe"
SMOLTALK_REVISION = "f73fe857d519ff6ac5af2ea67c4d3834da7b8bcc"
WORDS_REVISION = "20f5cc9b3f0ccc8ce45d814c532b7c2031bba31c"
KARPATHY = "https://karpathy-public.s3.us-west-2.amazonaws.com"


def _arc(subset: str, split: str, sha256: str, about_bytes: int) -> Asset:
    file = f"{subset}/{split}-00000-of-00001.parquet"
    return Asset(
        f"arc/{subset}/{split}",
        (RemoteFile(f"tasks/arc/{file}", file, sha256),),
        about_bytes,
        "CC BY-SA 4.0",
        "allenai/ai2_arc",
        ARC_REVISION,
        columns=("question", "choices", "answerKey"),
    )


def _gsm8k(split: str, sha256: str, about_bytes: int) -> Asset:
    file = f"{split}-00000-of-00001.parquet"
    return Asset(
        f"gsm8k/{split}",
        (RemoteFile(f"tasks/gsm8k/{file}", f"main/{file}", sha256),),
        about_bytes,
        "MIT",
        "openai/gsm8k",
        GSM8K_REVISION,
        columns=("question", "answer"),
    )


def _mmlu(
    subset: str, split: str, about_bytes: int, sha256: str = "", columns: tuple[str, ...] = ()
) -> Asset:
    file = f"{subset}/{split}-00000-of-00001.parquet"
    return Asset(
        f"mmlu/{subset}/{split}",
        (RemoteFile(f"tasks/mmlu/{file}", file, sha256),),
        about_bytes,
        "MIT",
        "cais/mmlu",
        MMLU_REVISION,
        columns=columns or ("question", "choices", "answer", "subject"),
    )


def _smoltalk(split: str, about_bytes: int, *sha256s: str) -> Asset:
    names = [f"{split}-{number:05d}-of-{len(sha256s):05d}.parquet" for number in range(len(sha256s))]
    return Asset(
        f"smoltalk/{split}",
        tuple(
            RemoteFile(f"tasks/smoltalk/{name}", f"data/{name}", sha256)
            for name, sha256 in zip(names, sha256s, strict=True)
        ),
        about_bytes,
        "Apache-2.0",
        "HuggingFaceTB/smol-smoltalk",
        SMOLTALK_REVISION,
        columns=("messages",),
    )


def _core() -> Asset:
    """Return CORE's 22 tasks, which share 21 files, and the scores of GPT-2, out of nanochat's archive."""
    gpt2 = {
        "openai-community-gpt2.csv": "d37cf6f03a5b554f32dcb415f4c7ec25750da046fdb0ce0d6224ac3f4a2d44d0",
        "openai-community-gpt2-medium.csv": "9f4b9ca80cf26944f051250b16aa0e5d8d162d493e03f2521a80da3fcca63c48",
        "openai-community-gpt2-large.csv": "ee79a88dc99126fb609f71b94b73c0baf8849494b19834222a7c12f086b39990",
        "openai-community-gpt2-xl.csv": "09be65b165b2510bd6003e999572613d69b9863b797ffb7090180b30cd43ae4d",
    }
    digests = {
        "core.yaml": "463f6ae0aa127fbd41fa655f8919e136858f4849eef176922a3be96e102ce7e7",
        "eval_meta_data.csv": "84e279cdc0d836c9ea3a6e55a99102f8ee18f72809fe7aa6ac5a1fe630aa492f",
    }
    items = {
        "commonsense_reasoning": ("commonsense_qa", "copa", "openbook_qa", "piqa"),
        "language_understanding": (
            "bigbench_language_identification",
            "hellaswag",
            "lambada_openai",
            "winograd_wsc",
            "winogrande",
        ),
        "reading_comprehension": ("boolq", "coqa", "squad"),
        "symbolic_problem_solving": (
            "agi_eval_lsat_ar",
            "bigbench_cs_algorithms",
            "bigbench_dyck_languages",
            "bigbench_operators",
            "bigbench_repeat_copy_logic",
        ),
        "world_knowledge": ("arc_challenge", "arc_easy", "bigbench_qa_wikidata", "jeopardy_all"),
    }
    names = [f"eval_data/{kind}/{name}.jsonl" for kind in items for name in items[kind]]
    files = [
        RemoteFile(f"tasks/core/{n}", f"eval_bundle/{n}", digests.get(n, "")) for n in [*digests, *names]
    ]
    scores = [RemoteFile(f"tasks/core/reference/{n}", f"eval_bundle/{n}", gpt2[n]) for n in gpt2]
    return Asset(
        CORE,
        (*files, *scores),
        162_000_000,
        "each task its own; see its publisher",
        archive=RemoteFile(
            "tasks/core.zip",
            f"{KARPATHY}/eval_bundle.zip",
            "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200",
        ),
    )


TASKS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        _arc(
            "ARC-Easy", "train", "b315db8a4be597dc7daa50a4e70d48dd7c990c32085629e6ccd8c926beaa80b5", 330_000
        ),
        _arc(
            "ARC-Easy",
            "validation",
            "ed890ff1e4cef7a7140d3a30dcea3ed2c9d467c6458f447ad9ef0176d8dcbb74",
            86_000,
        ),
        _arc("ARC-Easy", "test", "4160597d618ae851c7eb04e281574f3f654776216ac6b6641588d64527b47177", 346_000),
        _arc(
            "ARC-Challenge",
            "train",
            "e488c1587ffdcfc8443f916c53488a95cd471c5790e0746c6bfe4cecf20962cb",
            189_909,
        ),
        _arc(
            "ARC-Challenge",
            "validation",
            "395a5c88d1580d69855fbaee9450270578df1ad5af6259771cd0a42c20e99f05",
            55_743,
        ),
        _arc(
            "ARC-Challenge",
            "test",
            "62f03257e737aed263f55c6abf87c7bb0028a44a6bdd2a26eb1279eb42c1d1e9",
            204_000,
        ),
        _gsm8k("train", "ea82612ea9582142387730c793eb67d3b12849002bc0b7fa6f8efafa7351419d", 2_300_000),
        _gsm8k("test", "ee7b8da9e381df27b9e3f7758a159ab2bdaa4dbaa910546cbbc47e0cb44e4f59", 419_000),
        Asset(
            "humaneval/HumanEval",
            (
                RemoteFile(
                    "tasks/humaneval/test-00000-of-00001.parquet",
                    "openai_humaneval/test-00000-of-00001.parquet",
                ),
            ),
            84_000,
            "MIT",
            "openai/openai_humaneval",
            HUMANEVAL_REVISION,
            columns=("prompt", "canonical_solution", "test", "entry_point"),
        ),
        _mmlu("all", "dev", 77_000),
        _mmlu("all", "validation", 409_000),
        _mmlu("all", "test", 3_500_000, "74a41822ce7d3def56e1682f958469c04642a5336a5ce912fa375fdb90fb25d7"),
        _mmlu(
            "auxiliary_train",
            "train",
            47_518_592,
            "ae6662576ef989fed82a9289da1b89e950499c320f6849b052ec344dfcb709eb",
            columns=("train",),
        ),
        _smoltalk(
            "train",
            922_000_000,
            "498cd4580014f42c40cfde066573564ed28e3e1548a5566715b615f5ea932856",
            "5412c03df579fc7dd7d06c7f5249627d99d0621882fb8f2cd5c13582eb2a80f6",
            "aefcac6571abf275b4e1629baa01f326c0fe279d35cd0349b7439319923815a7",
            "c15edfca888c9924a626dad7b7f4e9f08d8f406f997ac13be46bc9be0a6192db",
        ),
        _smoltalk("test", 48_000_000, "be6773dcce145f3918ff14237b1f765affa427b0b13f6a02d397e665ac908b9a"),
        Asset(
            "spelling/words_alpha",
            (
                RemoteFile(
                    "tasks/spelling/words_alpha.txt",
                    f"https://raw.githubusercontent.com/dwyl/english-words/{WORDS_REVISION}/words_alpha.txt",
                    git_blob="d3a119e7ce57d068c3f3c9cbd694fc2ff14571ab",
                ),
            ),
            4_200_000,
            "Unlicense",
        ),
        Asset(
            "identity_conversations.jsonl",
            (
                RemoteFile(
                    "tasks/identity_conversations.jsonl",
                    f"{KARPATHY}/identity_conversations.jsonl",  # no digest is published; pin sha256 here
                ),
            ),
            2_300_000,
            "MIT",
        ),
        _core(),
    )
}
