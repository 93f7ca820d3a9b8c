# One static binary on an empty root: no shell, no libc, no package to patch.
#
#   docker build -t outrigger .
#   docker build --build-arg BUILDER=my/rust:1.95 --build-arg RUNTIME=my/base -t outrigger .
#   docker build --platform linux/arm64 --build-arg TARGET=aarch64-unknown-linux-gnu -t outrigger .
#
# BUILDER must hold cargo, a C compiler, make and a static libc (libc.a, in libc6-dev): jemalloc is built from
# source. RUNTIME may be any base; nothing in it is used.
ARG BUILDER=rust:1.95-bookworm
ARG RUNTIME=scratch

# hadolint ignore=DL3006
FROM ${BUILDER} AS build
ARG TARGET=x86_64-unknown-linux-gnu
WORKDIR /build
COPY . .
# --target keeps crt-static away from build scripts and procedural macros, which must be loaded dynamically.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --release --locked --bin outrigger --target "$TARGET" \
 && install -D "target/$TARGET/release/outrigger" /out/outrigger \
 && case "$(ldd /out/outrigger 2>&1)" in *"statically linked"* | *"not a dynamic"*) ;; *) exit 1 ;; esac

# hadolint ignore=DL3006
FROM ${RUNTIME}
LABEL org.opencontainers.image.title="outrigger" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/outrigger /outrigger
# The uid that redirect rules exempt; nothing needs to be written.
USER 1337:1337
ENTRYPOINT ["/outrigger"]
CMD ["run", "--config", "/etc/outrigger"]
