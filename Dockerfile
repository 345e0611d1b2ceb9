# docker build -t featspace .
# docker run --rm -v "$PWD/figures:/featspace/figures" featspace            builds the mini profile, as `make repro`
# docker run --rm featspace featspace --help                                any other command
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

# The environment is a layer of its own: only a change of the lock, the package's metadata or its defaults builds it again.
WORKDIR /featspace
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY src/featspace/__init__.py src/featspace/__init__.py
COPY params.yaml params.yaml
COPY data/weights.lock data/weights.lock
RUN UV_NO_CACHE=1 make env

# Without .git (see .dockerignore), of which DVC has to be told.
COPY . .
ENV PATH=/featspace/.venv/bin:$PATH DVC_NO_ANALYTICS=1 HF_HUB_OFFLINE=1
RUN dvc config --local core.no_scm true

CMD ["dvc", "repro", "mini"]
