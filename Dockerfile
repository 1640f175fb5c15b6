# whisq as a command: docker build -t whisq . && docker run --rm -v "$PWD:/work" whisq quantize model-f16.bin model-q5_0.bin q5_0
FROM python:3.13-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /whisq
COPY . .
RUN python -m venv /opt/whisq && PIP_CONSTRAINT=/whisq/constraints.txt /opt/whisq/bin/pip install --no-cache-dir '.[evaluate]'

FROM python:3.13-slim-bookworm
RUN useradd --create-home --uid 1000 whisq
COPY --from=build /opt/whisq /opt/whisq
ENV PATH=/opt/whisq/bin:$PATH
USER whisq
WORKDIR /work
ENTRYPOINT ["whisq"]
