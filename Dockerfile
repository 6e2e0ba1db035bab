# Two images from one file: `--target server` (no MLX) and `--target worker` (MLX on CPU).
FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    BITBUDGET_HOME=/state BITBUDGET_LOG_FORMAT=json
RUN useradd --create-home --uid 10001 bitbudget && install -d -o bitbudget -g bitbudget /state
WORKDIR /source
COPY LICENSE MANIFEST.in README.md constraints.txt pyproject.toml setup.py ./
COPY app app
COPY bitbudget bitbudget
COPY metal_kernels metal_kernels
COPY migrations migrations
COPY workers workers

FROM base AS server
RUN PIP_CONSTRAINT=/source/constraints.txt pip install '.[server]'
USER bitbudget
WORKDIR /state
VOLUME /state
EXPOSE 8765
ENV BITBUDGET_HOST=0.0.0.0
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8765/readyz')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["bitbudget"]
CMD ["serve"]

FROM base AS worker
RUN PIP_CONSTRAINT=/source/constraints.txt pip install '.[worker]'
USER bitbudget
WORKDIR /state
VOLUME /state
STOPSIGNAL SIGTERM
ENTRYPOINT ["bitbudget"]
CMD ["worker"]
