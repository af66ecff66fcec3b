# Images of the server; docs/install/docker.md shows how to run them.
#
#   docker build -t uttera-stt .                          CPU: x86-64 with AVX2, or arm64
#   docker build -t uttera-stt:cuda --target cuda .       NVIDIA GPU
#   docker build -t uttera-stt:vulkan --target vulkan .   AMD or Intel GPU
#
# Debian 13, because the Vulkan headers and drivers of Debian 12 are too old for whisper.cpp and for recent GPUs.
ARG DEBIAN=trixie

FROM debian:${DEBIAN}-slim AS ffmpeg
COPY scripts/container-ffmpeg /usr/local/bin/
RUN container-ffmpeg /ffmpeg

FROM rust:1-slim-${DEBIAN} AS toolchain
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang cmake curl g++ libclang-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/*
# scripts/build would install the package of it, which is large.
COPY --from=ffmpeg /ffmpeg /usr/local/bin/ffmpeg
WORKDIR /build

# The caches of cargo outlive a build, so that the next one compiles only what changed.
FROM toolchain AS build-cpu
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,id=uttera-stt-cpu \
    program=$(scripts/build --cpu avx2) && cp "$program" /uttera-stt

FROM toolchain AS build-vulkan
RUN apt-get update \
    && apt-get install -y --no-install-recommends glslc libvulkan-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,id=uttera-stt-vulkan \
    program=$(scripts/build --cpu avx2 --features vulkan) && cp "$program" /uttera-stt

FROM toolchain AS build-cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*
# Compute capabilities of the GPUs: scripts/build --help.
ARG CUDA_ARCH=86
COPY . .
# The compiler comes into the cache; of the toolkit, the image gets cuBLAS alone.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,id=uttera-stt-cuda \
    program=$(scripts/build --cpu avx2 --features cuda --cuda-arch "$CUDA_ARCH") && cp "$program" /uttera-stt \
    && scripts/gpu/cuda-toolkit --runtime /cuda-libraries

# What all images share at run time.
FROM debian:${DEBIAN}-slim AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 uttera-stt \
    && useradd --uid 10001 --gid 10001 --home-dir /models --no-create-home --no-log-init uttera-stt \
    && install -d -o 10001 -g 10001 /models \
    && install -d /etc/uttera-stt
COPY --from=ffmpeg /ffmpeg /usr/local/bin/ffmpeg
COPY scripts/container-start /usr/local/bin/container-start
COPY LICENSE NOTICE /usr/share/doc/uttera-stt/
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="uttera-stt" \
    org.opencontainers.image.description="Private, OpenAI-compatible speech-to-text server on Whisper" \
    org.opencontainers.image.source="https://github.com/uttera/uttera-stt" \
    org.opencontainers.image.documentation="https://github.com/uttera/uttera-stt/blob/main/docs/install/docker.md" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# No PORT: each role has its own, and a settings file may name another. Settings files lie in the working directory, and
# models in /models/whisper.
ENV HOST=0.0.0.0 XDG_CACHE_HOME=/models
WORKDIR /etc/uttera-stt
USER 10001:10001
VOLUME /models
EXPOSE 9005 8081 8082
# The server needs up to 40 s to finish what is running: `docker run --stop-timeout 60`.
STOPSIGNAL SIGTERM
# The start period covers the download of a model.
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m --start-interval=3s CMD ["container-start", "healthcheck"]
ENTRYPOINT ["container-start"]
CMD ["serve"]

FROM runtime AS vulkan
USER 0
RUN apt-get update \
    && apt-get install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=build-vulkan /uttera-stt /usr/local/bin/uttera-stt

FROM runtime AS cuda
# Where the program looks for it.
COPY --from=build-cuda /cuda-libraries/ /usr/local/lib/uttera-stt/
# The driver and its libraries come from the host: by CDI (`--device nvidia.com/gpu=all`), or with `--gpus all`, for which
# these variables are. Kernels that the driver compiles for the GPU are kept in the volume.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CUDA_CACHE_PATH=/models/cuda
COPY --from=build-cuda /uttera-stt /usr/local/bin/uttera-stt

# The last stage is the default one.
FROM runtime AS cpu
COPY --from=build-cpu /uttera-stt /usr/local/bin/uttera-stt
