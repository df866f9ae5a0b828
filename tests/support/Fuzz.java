///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Feeds the readers of CSV, JSON, workbooks, event streams and .env with inputs that a seed decides.
//SOURCES ../../DifyExec.java
//SOURCES FuzzedTables.java
//SOURCES FuzzedWorkbooks.java
//SOURCES FuzzedTexts.java
//SOURCES Given.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//DEPS de.siegmar:fastcsv:4.3.1
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

package difyexec;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

import module java.base;
import module java.management;

import static java.nio.charset.StandardCharsets.UTF_8;

/// Feeds one reader after the other with inputs that a seed decides, whole ones and damaged ones. The rows must equal
/// those of an oracle, or the refusal must name a place. A stack trace, more than five seconds of processor time, or
/// more memory than this process has (256 MB) are differences, too.
@Command(name = "fuzz", mixinStandardHelpOptions = true, sortOptions = false, usageHelpWidth = 100,
        description = "Feed each reader with inputs that a seed decides, and compare what it reads with an oracle. "
                + "Exit code 1 if there is a difference.",
        footer = {"", "Repeat an input: benchmarks/fuzz --reader csv --from 17 --inputs 1 --show"})
final class Fuzz implements Callable<Integer> {
    static final Duration MOST = Duration.ofSeconds(5);
    private static final int STACK = 16 << 20; // oracles read nested values by recursion

    @Option(names = "--inputs", paramLabel = "N", defaultValue = "10000",
            description = "Feed each reader with N inputs (default: ${DEFAULT-VALUE}).")
    int inputs;

    @Option(names = "--from", paramLabel = "N", defaultValue = "1",
            description = "Begin with input N (default: ${DEFAULT-VALUE}).")
    long from;

    @Option(names = "--reader", paramLabel = "NAME",
            description = "Only this reader: csv, json, workbook, events or dotenv.")
    Optional<String> reader = Optional.empty();

    @Option(names = "--openpyxl", description = "Also damage workbooks of openpyxl, which python3 must have.")
    boolean hasOpenpyxl;

    @Option(names = "--show", description = "Print each input and what came of it.")
    boolean isShown;

    static void main(String... args) {
        DifyExec.setProperties();
        System.exit(new CommandLine(new Fuzz()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var memory = Path.of("/dev/shm"); // a disk takes longer than the readers do
        var folder = Files.createTempDirectory(Files.isWritable(memory) ? memory
                : Path.of(System.getProperty("java.io.tmpdir")), "difyexec-fuzz");
        var workbooks = hasOpenpyxl ? FuzzedWorkbooks.ofPython(folder) : List.<byte[]>of();
        boolean isEqual = true;
        for (var target : targets(workbooks)) {
            if (reader.isPresent() && !reader.get().equals(target.name())) continue;
            long began = System.nanoTime();
            var report = feed(target, from, inputs, folder, isShown);
            System.out.printf(Locale.ROOT, "%s: %d inputs, %d read, %d refused, %d differences, slowest %.2f s "
                            + "(input %d), %.0f s%n", target.name(), inputs, report.read, report.refused,
                    report.differences.values().stream().mapToInt(List::size).sum(), report.slowest / 1e9,
                    report.slowestInput, (System.nanoTime() - began) / 1e9);
            report.differences.forEach((kind, all) -> System.out.printf("  %d × %s%n      input %d: %s%n", all.size(),
                    kind, all.getFirst().input(), all.getFirst().detail()));
            isEqual &= report.differences.isEmpty();
        }
        try (var files = Files.walk(folder)) {
            for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.delete(file);
        }
        return isEqual ? 0 : 1;
    }

    /// @param workbooks of another program, to damage
    static List<Target> targets(List<byte[]> workbooks) {
        return List.of(new FuzzedTables.OfCsv(), new FuzzedTables.OfJson(), new FuzzedWorkbooks(workbooks),
                new FuzzedTexts.Events(), new FuzzedTexts.Settings());
    }

    /// A reader with its oracle.
    interface Target {
        String name();

        /// Makes an input, and returns its bytes.
        byte[] make(SplittableRandom random) throws IOException;

        /// Reads an input in this file with the tool and with the oracle.
        Result compare(byte[] input, Path folder, SplittableRandom random) throws Exception;
    }

    /// The result of an input.
    sealed interface Result {
        record Read() implements Result {}
        record Refused(String message) implements Result {}
        /// @param kind a text that equal differences have in common
        record Different(String kind, String detail) implements Result {}
    }

    record Difference(long input, String detail) {}

    /// Counts the results of a reader's inputs.
    static final class Report {
        int read, refused;
        long slowest, slowestInput;
        final Map<String, List<Difference>> differences = new TreeMap<>();

        private void add(long input, Result result) {
            switch (result) {
                case Result.Read _ -> read++;
                case Result.Refused _ -> refused++;
                case Result.Different(var kind, var detail) -> differences.computeIfAbsent(kind,
                        _ -> new ArrayList<>()).add(new Difference(input, detail));
            }
        }
    }

    /// Feeds a reader with the inputs `from`, `from + 1` and so on. An input that takes too long keeps its thread and
    /// its folder for itself.
    static Report feed(Target target, long from, int inputs, Path folder, boolean isShown) throws Exception {
        var report = new Report();
        var worker = new Worker(Files.createTempDirectory(folder, target.name()));
        for (long input = from; input < from + inputs; input++) {
            var random = new SplittableRandom(new SplittableRandom(input).nextLong());
            var bytes = target.make(random);
            long began = System.nanoTime();
            var result = worker.compare(target, bytes, random);
            long took = System.nanoTime() - began;
            if (took > report.slowest) {
                report.slowest = took;
                report.slowestInput = input;
            }
            if (worker.thread.isShutdown()) worker = new Worker(Files.createTempDirectory(folder, target.name()));
            report.add(input, result);
            if (isShown) System.out.println(input + ": " + shown(bytes) + "\n  " + result);
        }
        worker.thread.shutdownNow();
        return report;
    }

    /// A thread with a folder for its input.
    private record Worker(Path folder, ExecutorService thread) {
        Worker(Path folder) {
            this(folder, Executors.newSingleThreadExecutor(Thread.ofPlatform().daemon().stackSize(STACK).factory()));
        }

        private Result compare(Target target, byte[] bytes, SplittableRandom random) throws InterruptedException {
            var running = new AtomicReference<Thread>();
            var began = new CompletableFuture<Duration>();
            var future = thread.submit(() -> {
                running.set(Thread.currentThread());
                began.complete(spent(Thread.currentThread()));
                return target.compare(bytes, folder, random);
            });
            try {
                while (true) try {
                    return future.get(1, TimeUnit.SECONDS);
                } catch (TimeoutException slow) {
                    var before = began.join(); // a busy machine takes longer than the reader does
                    if (spent(running.get()).minus(before).compareTo(MOST) > 0) throw slow;
                }
            } catch (ExecutionException problem) {
                return new Result.Different("stack trace of " + problem.getCause().getClass().getName() + " in "
                        + where(problem.getCause().getStackTrace()), problem.getCause() + ", " + shown(bytes));
            } catch (TimeoutException _) {
                thread.shutdownNow();
                return new Result.Different("more than " + MOST.toSeconds() + " s in "
                        + where(running.get().getStackTrace()), shown(bytes));
            }
        }

        /// The processor time of a thread.
        private static Duration spent(Thread thread) {
            return Duration.ofNanos(ManagementFactory.getThreadMXBean().getThreadCpuTime(thread.threadId()));
        }

        /// The tool's own method that is the deepest.
        private static String where(StackTraceElement... stack) {
            return Stream.of(stack).filter(frame -> frame.getClassName().startsWith("difyexec.DifyExec")).findFirst()
                    .map(frame -> frame.getClassName().replaceFirst(".*\\$", "") + "." + frame.getMethodName())
                    .orElse("no method of the tool");
        }
    }

    /// An input as a text in a message, cut after some hundred characters.
    static String shown(byte[] bytes) {
        var text = new StringBuilder();
        for (char c : new String(bytes, UTF_8).toCharArray()) {
            if (text.length() > 400) return text.append('…').toString();
            if (c >= ' ' && c < 127 && c != '\\') text.append(c);
            else text.append("\\u%04x".formatted((int) c));
        }
        return text.toString();
    }

    // ── Making inputs ───────────────────────────────────────────────────────────────────────────────────────────────

    static <T> T oneOf(SplittableRandom random, List<T> all) {
        return all.get(random.nextInt(all.size()));
    }

    static boolean chance(SplittableRandom random, int percent) {
        return random.nextInt(100) < percent;
    }

    /// Some of these pieces, one after the other.
    static String pieces(SplittableRandom random, List<String> all, int most) {
        return Stream.generate(() -> oneOf(random, all)).limit(random.nextInt(most + 1)).collect(Collectors.joining());
    }

    /// A text with one to three damages: pieces that are removed, added, doubled or moved.
    static String damaged(SplittableRandom random, String text, List<String> pieces) {
        var damaged = new StringBuilder(text);
        for (int left = 1 + random.nextInt(3); left > 0; left--) {
            int at = random.nextInt(damaged.length() + 1);
            int end = Math.min(damaged.length(), at + 1 + random.nextInt(1 + random.nextInt(20)));
            switch (random.nextInt(6)) {
                case 0 -> damaged.delete(at, end);
                case 1 -> damaged.insert(at, oneOf(random, pieces));
                case 2 -> damaged.replace(at, Math.min(damaged.length(), at + 1), oneOf(random, pieces));
                case 3 -> damaged.insert(at, damaged.substring(at, end));
                case 4 -> {
                    var moved = damaged.substring(at, end);
                    damaged.delete(at, end).insert(random.nextInt(damaged.length() + 1), moved);
                }
                default -> damaged.setLength(chance(random, 30) ? at : damaged.length());
            }
        }
        return damaged.toString();
    }

    /// Bytes of which some have another value.
    static byte[] damaged(SplittableRandom random, byte[] bytes) {
        var damaged = bytes.clone();
        for (int left = 1 + random.nextInt(3); left > 0 && damaged.length > 0; left--) {
            int at = random.nextInt(damaged.length);
            switch (random.nextInt(4)) {
                case 0 -> damaged[at] = (byte) random.nextInt(256);
                case 1 -> damaged[at] ^= (byte) (1 << random.nextInt(8));
                case 2 -> {
                    int end = Math.min(damaged.length, at + 1 + random.nextInt(8));
                    Arrays.fill(damaged, at, end, (byte) oneOf(random, List.of(0, 0xFF, 0x7F)).intValue());
                }
                default -> damaged = chance(random, 40) ? Arrays.copyOf(damaged, at) : damaged;
            }
        }
        return damaged;
    }

    /// The bytes of a text in UTF-8, or in UTF-16 with a byte order mark.
    static byte[] encoded(SplittableRandom random, String text) {
        if (chance(random, 92)) return text.getBytes(UTF_8);
        boolean isMarked = text.startsWith("\uFEFF");
        return (isMarked ? text : "\uFEFF" + text).getBytes(
                chance(random, 50) ? StandardCharsets.UTF_16LE : StandardCharsets.UTF_16BE);
    }

    /// The text of valid bytes, or empty if an encoding by byte order mark does not allow them.
    static Optional<String> decoded(byte[] bytes) {
        var first = HexFormat.of().formatHex(bytes, 0, Math.min(2, bytes.length));
        var charset = switch (first) {
            case "fffe" -> StandardCharsets.UTF_16LE;
            case "feff" -> StandardCharsets.UTF_16BE;
            default -> UTF_8;
        };
        try {
            return Optional.of(charset.newDecoder().decode(ByteBuffer.wrap(bytes)).toString());
        } catch (CharacterCodingException _) {
            return Optional.empty();
        }
    }
}
