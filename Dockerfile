# Consentinel in a container: one image, and the command says what it is (worker, gateway, up, topology, ...).
#   docker build -t consentinel .
#   docker run --rm consentinel --help
# No syntax that only BuildKit knows, so that every builder can build it.

FROM python:3.11-slim AS packages
COPY requirements/runtime.txt /tmp/runtime.txt
RUN python3 -m venv /opt/consentinel \
 && /opt/consentinel/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-input \
    --only-binary=:all: --require-hashes -r /tmp/runtime.txt

FROM python:3.11-slim
# A number of its own, so that volumes keep their owner from one image to the next.
RUN groupadd --gid 10001 consentinel \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin consentinel \
 && mkdir /data /ring \
 && chown consentinel:consentinel /data /ring \
 && chmod 700 /data /ring
COPY --from=packages /opt/consentinel /opt/consentinel
COPY topology.yaml /opt/consentinel/src/
COPY schemas /opt/consentinel/src/schemas
COPY law /opt/consentinel/src/law
COPY processors /opt/consentinel/src/processors
COPY engine /opt/consentinel/src/engine
COPY connectors /opt/consentinel/src/connectors
COPY deploy/docker/consentinel deploy/docker/healthy /usr/local/bin/
RUN /opt/consentinel/bin/python -m compileall -q /opt/consentinel/src
ENV PYTHONUNBUFFERED=1 \
    CONSENTINEL_KEYS__RING=/ring/ring
USER consentinel
WORKDIR /data
# The key ring is a volume of its own: a backup of the data must not hold the keys that open it.
VOLUME ["/data", "/ring"]
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --retries=24 CMD ["/usr/local/bin/healthy"]
ENTRYPOINT ["consentinel"]
CMD ["--help"]
