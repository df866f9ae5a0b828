package difyexec;

import module java.base;

/// HTTP/1.1 on loopback, one virtual thread per connection. With `places`, further connections wait in a queue, as
/// in gunicorn's backlog: what their clients have sent is read and carried out when their turn comes.
final class SimulatedServer implements AutoCloseable {
    private final ServerSocket socket;
    private final SimulatedDify dify;
    /// Other apps of this server, by key. All other keys are of the first one.
    private final Map<String, SimulatedDify> others = new ConcurrentHashMap<>();
    /// The apps of a workspace key, by their ids.
    private final Map<String, Map<String, SimulatedDify>> workspaces = new ConcurrentHashMap<>();
    private final Semaphore places;
    private final BlockingQueue<Socket> waiting = new LinkedBlockingQueue<>();
    private final Set<Socket> open = ConcurrentHashMap.newKeySet(), idle = ConcurrentHashMap.newKeySet();
    private volatile boolean isLeaving = false;

    private SimulatedServer(ServerSocket socket, int places, SimulatedDify dify) {
        this.socket = socket;
        this.dify = dify;
        this.places = new Semaphore(places > 0 ? places : Integer.MAX_VALUE);
    }

    /// @param places 0 for no limit
    static SimulatedServer start(int port, int places, SimulatedDify dify) throws IOException {
        var socket = new ServerSocket(port, 2048, InetAddress.getLoopbackAddress());
        var server = new SimulatedServer(socket, places, dify);
        Thread.ofPlatform().daemon().name("accept").start(server::accept);
        Thread.ofPlatform().daemon().name("door").start(server::letIn);
        return server;
    }

    void add(String key, SimulatedDify app) {
        others.put(key, app);
    }

    /// A key of a workspace, for all of these apps. A request names one of them by its id in `X-Dify-App-ID`.
    void addWorkspace(String key, Map<String, SimulatedDify> apps) {
        workspaces.put(key, apps);
        Stream.concat(Stream.of(dify), apps.values().stream()).forEach(app -> app.bind(key, apps.keySet()));
    }

    /// The app that a request is for; the first one refuses those that name none.
    private SimulatedDify app(SimulatedExchange exchange) {
        var key = exchange.headers().getOrDefault("authorization", "").replaceFirst("^Bearer ", "");
        var id = exchange.headers().getOrDefault(SimulatedDify.APP_ID, "");
        return workspaces.getOrDefault(key, Map.of()).getOrDefault(id, others.getOrDefault(key, dify));
    }

    /// The address for clients: `http://127.0.0.1:40123/v1`.
    URI baseUrl() {
        return URI.create("http://127.0.0.1:" + socket.getLocalPort() + "/v1");
    }

    /// How many requests wait until other connections end, also those whose clients have left.
    int waiting() {
        return (int) waiting.stream().filter(SimulatedServer::hasRequest).count();
    }

    private static boolean hasRequest(Socket connection) {
        try {
            return connection.getInputStream().available() > 0;
        } catch (IOException _) {
            return false; // it is closed
        }
    }

    private void accept() {
        try {
            while (true) {
                var connection = socket.accept();
                open.add(connection);
                waiting.add(connection);
            }
        } catch (IOException _) {
            // the server is closed
        }
    }

    private void letIn() {
        try {
            while (!socket.isClosed()) {
                places.acquire();
                var next = waiting.poll(1, TimeUnit.SECONDS);
                if (next == null) places.release();
                else Thread.startVirtualThread(() -> serve(next));
            }
        } catch (InterruptedException _) {
            // the process ends
        }
    }

    private void serve(Socket connection) {
        try (connection) {
            connection.setTcpNoDelay(true);
            connection.setSoTimeout((int) dify.idle().toMillis());
            var in = new BufferedInputStream(connection.getInputStream(), 1 << 13);
            var out = new BufferedOutputStream(connection.getOutputStream(), 1 << 13);
            while (!isLeaving) {
                idle.add(connection);
                var next = SimulatedExchange.read(connection, in, out);
                idle.remove(connection);
                if (next.isEmpty()) break;
                app(next.get()).answer(next.get());
                if (next.get().isLast()) break;
            }
        } catch (IOException | InterruptedException _) {
            // the client disconnected, was idle too long, or is to be dropped
        } finally {
            open.remove(connection);
            idle.remove(connection);
            places.release();
        }
    }

    /// Accepts no more requests; accepted ones are answered.
    void leave() throws IOException {
        isLeaving = true;
        socket.close();
        for (var connection : idle) connection.close();
        for (var connection : waiting) connection.close();
    }

    @Override
    public void close() throws IOException {
        socket.close();
        for (var connection : open) connection.close();
    }
}
