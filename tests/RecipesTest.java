package difyexec;

import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// What lies in `examples/scale/`, run as it is written there. Needs the checkout, and the program of the recipe; else the
/// test says so and is skipped.
@Timeout(120)
final class RecipesTest extends WholeCommand {
    private final Dify dify = dify();

    /// A folder as the recipes need it: `difyexec` on the PATH, the key in `.env`, a CSV.
    @BeforeEach
    void install() throws IOException {
        var java = Stream.of(ProcessHandle.current().info().command().orElseThrow(), "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED", "-cp", System.getProperty("java.class.path"),
                "difyexec.DifyExec").collect(Collectors.joining("' '", "'", "'"));
        Files.createDirectories(file("bin"));
        executable(file("bin/difyexec"), "#!/bin/sh\nexec " + java + " \"$@\"\n");
        Files.writeString(file(".env"), "DIFY_API_KEY=" + KEY + "\nDIFY_API_BASE_URL=" + dify.url() + "\n");
        rows(12);
    }

    private static String recipe(String name) {
        return checkout().resolve("examples/scale").resolve(name).toString();
    }

    private static void need(String... programs) {
        for (var program : programs)
            Assumptions.assumeTrue(Stream.of("/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin")
                    .anyMatch(place -> Files.isExecutable(Path.of(place, program))),
                    "there is no " + program + " here");
    }

    private Process start(Map<String, String> settings, String out, String... words) throws IOException {
        var builder = new ProcessBuilder(words).directory(folder.toFile()).redirectErrorStream(true)
                .redirectInput(ProcessBuilder.Redirect.from(new File("/dev/null"))).redirectOutput(file(out).toFile());
        builder.environment().clear();
        builder.environment().putAll(Map.of("PATH", file("bin") + ":/usr/bin:/bin:/usr/sbin:/usr/local/bin",
                "HOME", folder.toString(), "LC_ALL", "C.UTF-8"));
        builder.environment().putAll(settings);
        return builder.start();
    }

    /// Runs a program to its end; gives what it said.
    private String said(Map<String, String> settings, int code, String... words) throws Exception {
        var process = start(settings, "said.out", words);
        assertEquals(code, process.waitFor(), () -> String.join(" ", words) + "\n" + saidSoFar());
        return content("said.out");
    }

    private String saidSoFar() {
        try {
            return content("said.out");
        } catch (IOException problem) {
            throw new UncheckedIOException(problem);
        }
    }

    /// Each row has what one process makes of it, and was sent once.
    private void isWhatOneProcessMakes(int runs) throws IOException {
        assertEquals(runs, dify.runs());
        var one = file("one.jsonl").toString();
        call(dify.settings(), "run", "-i", input(), "-o", one, "--mode", "blocking");
        assertEquals(outputs("one.jsonl"), outputs("results.jsonl"));
        assertEquals("succeeded=12", status());
    }

    private Map<String, String> outputs(String results) throws IOException {
        var outputs = new TreeMap<String, String>();
        for (var line : read(results)) outputs.put(line.path("id").asText(), line.path("inputs") + " "
                + line.path("outputs"));
        return outputs;
    }

    @Nested
    class ARecipe {
        @ParameterizedTest
        @ValueSource(strings = {"parallel.sh data.csv results.jsonl 3", "parallel-ssh.sh data.csv results.jsonl 3 :"})
        void forGnuParallelMakesTheBatchOfOneProcess(String line) throws Exception {
            need("parallel");
            var words = line.split(" ");
            words[0] = recipe(words[0]);

            said(Map.of(), Exit.OK.code, words);

            assertTrue(names().containsAll(Set.of("results.1-of-3.jsonl", "results.2-of-3.jsonl",
                    "results.3-of-3.jsonl")), names().toString());
            isWhatOneProcessMakes(12);
        }

        private static String script() throws IOException {
            return Files.readString(Path.of(recipe("kubernetes.yaml")))
                    .replaceAll("(?s).*\n            - \\|\n(.*?)\n          workingDir.*", "$1").stripIndent();
        }

        /// Under the variables of such a job. A row that fails completes the index all the same.
        @Test
        void forKubernetesRunsItsIndexAndEndsWellWhereRowsFail() throws Exception {
            dify.row("5", dify.ended("failed", "no"));
            var index = Shard.of("5", 8).index();

            var told = said(Map.of("JOB_COMPLETION_INDEX", String.valueOf(index - 1)), Exit.OK.code, "sh", "-c", script());

            assertTrue(told.contains("shard " + index + " of 8: "), told);
            assertTrue(content("results." + index + "-of-8.jsonl.retry").contains("5\n"), told);
        }

        @Test
        void forKubernetesKeepsTheCodeThatFailsTheJob() throws Exception {
            Files.delete(file(".env")); // without a key nothing can be run

            said(Map.of("JOB_COMPLETION_INDEX", "0"), Exit.UNUSABLE.code, "sh", "-c", script());
        }

        @Test
        void forSlurmMakesTheBatchOfOneProcess() throws Exception {
            need("munged", "slurmctld", "slurmd", "sbatch");
            try (var slurm = new Slurm()) {
                slurm.begin();

                said(slurm.settings, Exit.OK.code, "sbatch", "--wait", recipe("slurm.sh"), "data.csv", "results.jsonl");
            }
            assertTrue(content("shard-2.out").contains("shard 2 of 4: "), content("shard-2.out"));
            var merge = call(Map.of(), "merge", "-i", input(), "-o", output());
            assertEquals(Exit.OK.code, merge.code(), merge.err());

            isWhatOneProcessMakes(12);
        }
    }

    /// One node, with all its files in the test's folder.
    private final class Slurm implements AutoCloseable {
        final Map<String, String> settings = Map.of("SLURM_CONF", file("slurm.conf").toString());
        private final List<Process> servers = new ArrayList<>();

        void begin() throws Exception {
            Files.createDirectories(file("state"));
            Files.createDirectories(file("spool"));
            var key = new byte[1024];
            new SplittableRandom().nextBytes(key);
            Files.write(file("munge.key"), key);
            Files.setPosixFilePermissions(file("munge.key"), PosixFilePermissions.fromString("rw-------"));
            var node = said(Map.of(), 0, "hostname", "-s").strip();
            Files.writeString(file("slurm.conf"), configuration(node));
            serve("munged", "--foreground", "--force", "--key-file=" + file("munge.key"), "--socket="
                    + file("munge.socket"), "--pid-file=" + file("munged.pid"), "--log-file=" + file("munged.log"),
                    "--seed-file=" + file("munged.seed"));
            serve("slurmctld", "-D", "-c");
            serve("slurmd", "-D", "-c", "-N", node);
            for (var end = Instant.now().plusSeconds(15); Instant.now().isBefore(end); ) {
                var asked = start(settings, "sinfo.out", "sinfo", "--noheader", "--format=%T");
                if (asked.waitFor() == 0 && content("sinfo.out").strip().equals("idle")) return;
                for (var server : servers) Assumptions.assumeFalse(server.waitFor(100, TimeUnit.MILLISECONDS),
                        "Slurm does not start here: " + content("munged.out") + content("slurmctld.out")
                                + content("slurmd.out"));
            }
            Assumptions.abort("Slurm does not start here within 15 s: " + content("sinfo.out"));
        }

        private void serve(String... words) throws IOException {
            servers.add(start(settings, words[0] + ".out", words));
        }

        private String configuration(String node) throws IOException {
            var user = System.getProperty("user.name");
            try (var first = new ServerSocket(0); var second = new ServerSocket(0)) {
                return """
                        ClusterName=test
                        SlurmctldHost=%1$s(127.0.0.1)
                        SlurmUser=%2$s
                        SlurmdUser=%2$s
                        SlurmctldPort=%3$d
                        SlurmdPort=%4$d
                        AuthType=auth/munge
                        AuthInfo=socket=%5$s/munge.socket
                        CredType=cred/munge
                        StateSaveLocation=%5$s/state
                        SlurmdSpoolDir=%5$s/spool
                        SlurmctldPidFile=%5$s/slurmctld.pid
                        SlurmdPidFile=%5$s/slurmd.pid
                        ProctrackType=proctrack/pgid
                        TaskPlugin=task/none
                        JobAcctGatherType=jobacct_gather/none
                        MailProg=/bin/true
                        ReturnToService=2
                        SchedulerParameters=sched_interval=1,batch_sched_delay=0
                        SlurmdParameters=config_overrides
                        NodeName=%1$s NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
                        PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
                        """.formatted(node, user, first.getLocalPort(), second.getLocalPort(), folder);
            }
        }

        @Override
        public void close() throws InterruptedException {
            for (var server : servers.reversed()) {
                server.destroy();
                if (!server.waitFor(5, TimeUnit.SECONDS)) server.destroyForcibly().waitFor();
            }
        }
    }
}
