# Images of Ebb. `docker build --target operator -t REGISTRY/ebb-operator:TAG .`, likewise `--target activator`.
FROM rust:1.95-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Static, so that the image needs nothing else; with --target the flag does not reach build scripts and macros.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile dist --locked --target "$target" -p operator -p activator \
 && mkdir /out && cp "target/$target/dist/operator" "target/$target/dist/activator" /out/

FROM scratch AS operator
COPY --from=build /out/operator /operator
USER 65532:65532
ENTRYPOINT ["/operator"]

FROM scratch AS activator
COPY --from=build /out/activator /activator
USER 65532:65532
ENTRYPOINT ["/activator"]
