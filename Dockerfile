# docker build -t nemo_speechlm .
# docker run --gpus all --ipc host -v /path/to/data:/data nemo_speechlm speechlm_pretrain --config-name speechlm_p_base ...
ARG BASE_IMAGE=nvcr.io/nvidia/nemo-speech:26.07.00
# hadolint ignore=DL3006  the tag is part of the argument
FROM ${BASE_IMAGE}
ARG BASE_IMAGE

ARG VERSION="unreleased"
LABEL org.opencontainers.image.title="nemo_speechlm" \
    org.opencontainers.image.description="Pretraining of one encoder on unpaired speech and text, for NVIDIA NeMo" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.base.name="${BASE_IMAGE}"

# languages (GPL) has the demo's voices and the phonemes of other languages than English; EXTRAS="" does without.
ARG EXTRAS="languages"
WORKDIR /opt/nemo_speechlm

# Dependencies, in a layer that only these files change. The image's own torch stays; requirements.py sees to it, and the
# image's PIP_CONSTRAINT, which may name other versions than ours of what it has not, is put out of force.
COPY pyproject.toml constraints.txt docker/requirements.py /tmp/install/
WORKDIR /tmp/install
# hadolint ignore=DL3042,DL3013  pins are in constraints.txt
RUN python requirements.py . ${EXTRAS} \
    && PIP_CONSTRAINT="" python -m pip install --no-cache-dir -r requirements.txt -c constraints.txt \
    && python -c "import torch, nemo; print('torch', torch.__version__)"

WORKDIR /opt/nemo_speechlm
COPY . .
RUN PIP_CONSTRAINT="" python -m pip install --no-cache-dir --no-deps -e . \
    && useradd --uid 10001 --create-home --shell /bin/bash speechlm \
    && mkdir /workspace/runs -p \
    && chown speechlm /workspace/runs

# Not root. What the commands write goes here, or to a mounted folder that this user may write to.
USER 10001
WORKDIR /workspace/runs
# An update of a tiny model: half a minute of one core an hour.
HEALTHCHECK --interval=1h --timeout=5m --start-period=5m --start-interval=1m --retries=2 \
    CMD ["python", "/opt/nemo_speechlm/docker/health.py"]
ENTRYPOINT ["/opt/nemo_speechlm/docker/entrypoint.sh"]
CMD ["--help"]
