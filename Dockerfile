# How to build and run it, with and without a GPU, and how the results get out: docs/pipeline.md
# NVIDIA's base image has what a driver needs to be reached; PyTorch's wheels bring the libraries of the same CUDA.
FROM nvidia/cuda:13.2.1-base-ubuntu24.04

# Ubuntu serves only the newest version of a package, so that none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --uid 10001 --gid 0 --home-dir /home/featspace featspace \
    && install -d -o featspace -g 0 -m 2775 /home/featspace \
        /featspace /featspace/.dvc /featspace/data /featspace/src /featspace/src/featspace

# Not root, and any other user who is in group 0 as well: what lies here is that group's.
USER 10001
WORKDIR /featspace
ENV HOME=/home/featspace USER=featspace PATH=/featspace/.venv/bin:$PATH \
    DVC_NO_ANALYTICS=1 HF_HUB_OFFLINE=1 MPLCONFIGDIR=/home/featspace/matplotlib

# The environment is a layer of its own: only a change of the lock, the package's metadata or its defaults builds it again.
COPY --chown=featspace:0 Makefile pyproject.toml requirements.lock README.md LICENSE params.yaml ./
COPY --chown=featspace:0 src/featspace/__init__.py src/featspace/__init__.py
COPY --chown=featspace:0 data/weights.lock data/weights.lock
COPY --chown=featspace:0 .dvc/config .dvc/config
RUN umask 002 && UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 make env

# The lock that is copied again may have a newer date than the environment that was built from it.
COPY --chown=featspace:0 . .
RUN touch .venv/.complete \
    && find . -name .venv -prune -o -type d -exec chmod g+w {} + \
    && chmod g+w dvc.lock

HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["featspace", "--version"]

CMD ["make", "repro"]
