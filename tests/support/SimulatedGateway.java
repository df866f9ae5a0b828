package difyexec;

import picocli.CommandLine.TypeConversionException;

import module java.base;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

/// A gateway in front of Dify that buffers whole responses, as those of clouds do. When it has waited long enough, it
/// closes its connection to Dify and answers with an error or a page; what it has asked for continues.
///
/// @param limit  how long it waits for a response
/// @param status the status of its error; 200 for a page
record SimulatedGateway(Duration limit, int status) {
    private static final Map<Integer, String> TITLES = Map.of(200, "Please wait", 500, "Internal Server Error",
            502, "Bad Gateway", 503, "Service Unavailable", 504, "Gateway Time-out");

    /// Dify behind it.
    @FunctionalInterface
    interface Upstream {
        void answer(SimulatedExchange exchange) throws IOException, InterruptedException;
    }

    /// `20s=504`, or `2s=page`.
    static SimulatedGateway of(String text) {
        var words = text.split("=", 2);
        var status = words.length < 2 ? "" : words[1].replace("page", "200");
        if (!status.matches("\\d{3}") || !TITLES.containsKey(Integer.parseInt(status)))
            throw new TypeConversionException("'" + text + "' is not like 20s=504 or 2s=page");
        return new SimulatedGateway(Simulator.Span.time(words[0]), Integer.parseInt(status));
    }

    /// Passes the request on.
    void pass(SimulatedExchange exchange, Simulator.Pace pace, Upstream dify) throws IOException, InterruptedException {
        var hasGivenUp = new CompletableFuture<Void>();
        var response = new ByteArrayOutputStream();
        var behind = exchange.behind(response, hasGivenUp);
        var done = new CompletableFuture<Void>();
        Thread.startVirtualThread(() -> {
            try {
                dify.answer(behind);
                done.complete(null);
            } catch (IOException | InterruptedException problem) {
                done.completeExceptionally(problem); // its connection has broken
            }
        });
        try {
            done.get(pace.millis(limit), MILLISECONDS);
            exchange.pass(response.toByteArray());
        } catch (TimeoutException _) {
            hasGivenUp.complete(null);
            refuse(exchange, status);
        } catch (ExecutionException _) {
            refuse(exchange, 502);
        }
    }

    private static void refuse(SimulatedExchange exchange, int status) throws IOException {
        exchange.header("Connection", "close").send(status, "text/html",
                "<html><head><title>" + TITLES.get(status) + "</title></head><body></body></html>\n");
    }
}
