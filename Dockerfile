# The image: one static program, and nothing else.
#
#   docker build -t leasehold .                        builds the program in the image's own build stage
#   make image                                         takes the program that `make static` made; no network
#
# amd64 is what is tested; arm64 is built by the same lines and has not been run.
ARG RUST_VERSION=1.95.0

# The build stage runs on the builder's own processor, whatever the image is for.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:${RUST_VERSION}-slim-bookworm AS build
ARG BUILDARCH=amd64
ARG TARGETARCH=amd64
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends make \
    && if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
         case "$TARGETARCH" in arm64) package=aarch64-linux-gnu ;; amd64) package=x86-64-linux-gnu ;; esac; \
         apt-get install -y --no-install-recommends "gcc-$package" "libc6-dev-$TARGETARCH-cross"; \
       fi
COPY . .
RUN case "$TARGETARCH" in arm64) target=aarch64 ;; amd64) target=x86_64 ;; *) echo "no image for $TARGETARCH"; exit 1 ;; esac \
    && target="$target-unknown-linux-gnu" \
    && rustup target add "$target" \
    && if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
         gcc="${target%-unknown-linux-gnu}-linux-gnu-gcc"; \
         export CC_$(echo "$target" | tr - _)="$gcc" CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER="$gcc"; \
       fi \
    && make static target="$target" \
    && cp "target/$target/release/leasehold" /leasehold

FROM scratch AS image
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="leasehold" \
      org.opencontainers.image.description="Leader election beside any app: holds a Lease, answers on localhost and in a file" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The allocator gives back what is freed: a cache for the thread, and room left at the top of the heap, would fill up for
# hours (docs/proof.md, Soak).
ENV GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mmap_threshold=65536:glibc.malloc.trim_threshold=65536:glibc.malloc.top_pad=0
# Any other uid does as well: the program needs no home, no entry in a passwd file and no writable root.
USER 65532:65532
ENTRYPOINT ["/leasehold"]
CMD ["run"]

# Of a program built outside: leasehold-$TARGETARCH in the context.
FROM image AS prebuilt
ARG TARGETARCH=amd64
COPY --chmod=0555 leasehold-${TARGETARCH} /leasehold

FROM image
COPY --from=build --chmod=0555 /leasehold /leasehold
