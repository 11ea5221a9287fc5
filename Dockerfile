# Images of Driftline: `docker build --target service|service-gpu|training .`; scripts/image-rehearsal runs the same steps without Docker.
# pip in these stages listens to PIP_INDEX_URL and PIP_EXTRA_INDEX_URL, given with --build-arg where packages come from elsewhere.
ARG DEBIAN=debian:bookworm-slim

# What every image stands on: Debian's Python, and a user that owns nothing but /data and /keys.
FROM ${DEBIAN} AS base
# Debian's security updates are wanted; a pinned package would vanish from the archive with the next of them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 driftline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin driftline \
    && install -d -o 10001 -g 10001 -m 0750 /data /keys
ENV PATH=/opt/driftline/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 \
    DRIFTLINE_DATA_DIR=/data DRIFTLINE_LOG_FORMAT=json

# pip stays here: it installs into the environment that the images copy.
FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --without-pip /opt/driftline
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_PYTHON=/opt/driftline/bin/python PIP_CACHE_DIR=/root/.cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The dependencies are a layer of their own: without its packages the project is only their list.
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM build AS service-build
# Without the tests of libraries, and without OpenVINO's plugins for other processors than the CPU.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --constraint constraints.txt ".[cpu,postgres,redis,s3,trace]" \
    && rm -f /opt/driftline/lib/python3*/site-packages/onnxruntime_ep_openvino/libopenvino_intel_[gn]pu_plugin.so \
    && find /opt/driftline -type d -name tests -prune -exec rm -r {} +
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --constraint constraints.txt --no-deps --force-reinstall .

FROM build AS service-gpu-build
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --constraint constraints.txt ".[gpu,postgres,redis,s3,trace]" \
    && find /opt/driftline -type d -name tests -prune -exec rm -r {} +
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --constraint constraints.txt --no-deps --force-reinstall .

FROM build AS training-build
# torch first and alone: resolved together with the rest, pip may pick a build with several GB of GPU libraries.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --constraint constraints.txt torch \
    && pip install -q --constraint constraints.txt ".[cpu,train,postgres,redis,s3,trace]"
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --constraint constraints.txt --no-deps --force-reinstall .

# The default backbone, exported to ONNX with torch and proved, so that the serving images carry it and not torch.
FROM training-build AS backbone
RUN driftline backbone import --data-dir /src/home && driftline backbone export /opt/backbone --data-dir /src/home

FROM base AS training
LABEL org.opencontainers.image.title="driftline-training" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=training-build /opt/driftline /opt/driftline
COPY --from=backbone /opt/backbone /opt/backbone
ENV DRIFTLINE_BACKBONE=/opt/backbone
USER 10001:10001
VOLUME ["/data"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["driftline"]
CMD ["worker"]

FROM base AS service-gpu
LABEL org.opencontainers.image.title="driftline-service-gpu" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=service-gpu-build /opt/driftline /opt/driftline
COPY --from=backbone /opt/backbone /opt/backbone
ENV DRIFTLINE_BACKBONE=/opt/backbone DRIFTLINE_HOST=0.0.0.0 DRIFTLINE_PORT=8080 DRIFTLINE_WORKER=false \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=3 CMD ["python", "-m", "cli.ready"]
ENTRYPOINT ["driftline"]
CMD ["serve"]

FROM base AS service
LABEL org.opencontainers.image.title="driftline-service" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=service-build /opt/driftline /opt/driftline
COPY --from=backbone /opt/backbone /opt/backbone
ENV DRIFTLINE_BACKBONE=/opt/backbone DRIFTLINE_HOST=0.0.0.0 DRIFTLINE_PORT=8080 DRIFTLINE_WORKER=false
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=3 CMD ["python", "-m", "cli.ready"]
ENTRYPOINT ["driftline"]
CMD ["serve"]
