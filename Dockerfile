FROM python:3.11-slim
RUN useradd --system --create-home --home-dir /var/lib/boatload boatload
WORKDIR /opt/boatload
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY app ./app
COPY migrations ./migrations
USER boatload
ENV BOATLOAD_HOST=0.0.0.0 BOATLOAD_DATA_DIR=/var/lib/boatload
VOLUME /var/lib/boatload
EXPOSE 8000
STOPSIGNAL SIGTERM
# Bound to all addresses of the container, it starts only with BOATLOAD_ALLOW_ANONYMOUS=true: publish the port on loopback.
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
