# syntax=docker/dockerfile:1
# The command pe-spatial as a user without rights, on a CPU. From the root of the checkout:
#     pip wheel --no-deps --wheel-dir dist .
#     docker build -t pe-spatial .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" pe-spatial check photos
#
# For a GPU, take PyPI's build of torch, which has CUDA, and start with --gpus all:
#     docker build --build-arg TORCH_INDEX= -t pe-spatial:cuda .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD:/data" pe-spatial:cuda train detection --data photos --output run
FROM python:3.11-slim-bookworm

# what OpenCV is linked against
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# PyTorch's own index has builds without CUDA, which are a tenth as large
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# comma-separated names of extras, see setup.cfg
ARG EXTRAS=demo,segmentation,text,onnx
COPY constraints.txt dist/pe_spatial-*.whl /tmp/
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX pip install --no-cache-dir -c /tmp/constraints.txt \
    "$(ls /tmp/pe_spatial-*.whl)[$EXTRAS]" \
    && rm /tmp/constraints.txt /tmp/pe_spatial-*.whl

# weights and tables of annotations; any user may write there, so that --user works. Mount it to keep downloads.
RUN useradd --create-home --uid 1000 user && mkdir -m 777 /cache
ENV HOME=/cache HF_HOME=/cache/huggingface PE_SPATIAL_CACHE=/cache/pe_spatial MPLCONFIGDIR=/cache/matplotlib
USER user
WORKDIR /data

# without a shell in between, so that Ctrl-C reaches a training, which then writes its checkpoint
ENTRYPOINT ["pe-spatial"]
CMD ["--help"]
