# Turnout in a container:
#   docker build -t turnout .
#   docker run -p 8080:8080 -v $PWD/turnout.yaml:/etc/turnout/turnout.yaml:ro \
#     -v turnout-state:/var/lib/turnout turnout
# The example configuration inside expects upstreams at $TURNOUT_BLUE and $TURNOUT_GREEN.

# `--build-arg TURNOUT_EXTRAS=aws` adds what outer layers of that extra need (docs/outer/).

# The data plane is compiled (docs/decisions/0017); `--build-arg TURNOUT_COMPILE=0` leaves it plain.
FROM python:3.11-slim-bookworm AS build
ARG TURNOUT_COMPILE=1
ARG TURNOUT_EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# The locked dependencies first: this layer changes only when the locks do.
# The compiler, and what mypyc reads types from, stay in this stage.
COPY requirements-build.lock requirements-compile.lock requirements-aws.lock requirements.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --no-deps -r requirements-build.lock \
 && if [ "$TURNOUT_COMPILE" = 1 ]; then \
      apt-get update -qq \
      && apt-get install -qq -y --no-install-recommends gcc libc6-dev \
      && /opt/build/bin/pip install --require-hashes --no-deps --only-binary :all: \
           -r requirements-compile.lock -r requirements.lock; \
    fi \
 && python -m venv --without-pip /opt/turnout \
 && /opt/build/bin/pip --python /opt/turnout/bin/python install \
      --require-hashes --no-deps --only-binary :all: -r requirements.lock \
 && for extra in $TURNOUT_EXTRAS; do \
      /opt/build/bin/pip --python /opt/turnout/bin/python install \
        --require-hashes --no-deps --only-binary :all: -r "requirements-$extra.lock" || exit 1; \
    done

# turnout/ holds links to the three rooms; COPY keeps them, and the wheel holds what they
# point to.
COPY pyproject.toml setup.py README.md LICENSE ./
COPY config config
COPY control control
COPY proxy proxy
COPY turnout turnout
RUN TURNOUT_COMPILE=$TURNOUT_COMPILE /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/turnout/bin/python install --no-deps /wheels/*.whl \
 && /opt/turnout/bin/python -m compileall -q /opt/turnout/lib


FROM python:3.11-slim-bookworm
# A number, so that an orchestrator that asks for non-root can see that it is.
RUN groupadd --gid 10001 turnout \
 && useradd --uid 10001 --gid turnout --no-create-home --home-dir /var/lib/turnout turnout \
 && install -d -o turnout -g turnout -m 0700 /run/turnout /var/lib/turnout
COPY --from=build /opt/turnout /opt/turnout
COPY deploy/turnout.yaml /etc/turnout/turnout.yaml
# What the processes share is in /run/turnout. In the container's own layer it works, with a
# warning; `--tmpfs /run/turnout:uid=10001,mode=0700` makes it memory. The control API listens
# inside the container only; TURNOUT_BIND=:9180 and tokens in the configuration open it.
ENV PATH=/opt/turnout/bin:$PATH \
    TURNOUT_CONFIG=/etc/turnout/turnout.yaml \
    RUNTIME_DIRECTORY=/run/turnout \
    STATE_DIRECTORY=/var/lib/turnout \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/turnout
# Decisions outlive the container.
VOLUME ["/var/lib/turnout"]
EXPOSE 8080 9180
# Workers finish what they have: give `docker stop -t` more than timeouts.shutdown.
STOPSIGNAL SIGTERM
# TURNOUT_BIND is the control API's address in the example configuration. A configuration of
# your own with another address sets it too; one with control.tls brings a check of its own. (No
# curl here: Python's own client.)
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["python", "-Pc", \
  "import http.client as h, os, sys; \
   c = h.HTTPConnection(os.environ.get('TURNOUT_BIND', '127.0.0.1:9180'), timeout=2); \
   c.request('GET', '/readyz', headers={'Host': 'localhost'}); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["turnout"]
CMD ["run"]
