# Image of the server for CPUs. The first start downloads the model into the volume /models.
#
#   docker build -t uttera-stt .
#   docker run --init -p 127.0.0.1:9005:9005 -v uttera-models:/models uttera-stt

FROM rust:1-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang cmake g++ libclang-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# .cargo/config.toml builds for any x86-64 machine with AVX2, not only for the one that builds the image.
RUN cargo build --release --locked --bin uttera-stt

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl ffmpeg libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/uttera-stt uttera \
    && install -d -o uttera -g uttera /models
COPY --from=build /build/target/release/uttera-stt /usr/local/bin/uttera-stt
COPY scripts/container-start /usr/local/bin/container-start
COPY LICENSE NOTICE /usr/share/doc/uttera-stt/
USER uttera
WORKDIR /var/lib/uttera-stt
ENV HOST=0.0.0.0 PORT=9005 XDG_CACHE_HOME=/models
VOLUME /models
EXPOSE 9005
# The start period covers the download of the model at the first start.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD curl -fsS -o /dev/null "http://127.0.0.1:$PORT/readyz"
CMD ["container-start"]
