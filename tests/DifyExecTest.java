///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION All tests of DifyExec; the last line is "N passed, N failed".
//SOURCES ../DifyExec.java
//SOURCES MapTest.java
//SOURCES MessagesTest.java
//SOURCES support/Given.java
//SOURCES support/Story.java
//SOURCES SettingsTest.java
//SOURCES FilesTest.java
//SOURCES PowerTest.java
//SOURCES StorageTest.java
//SOURCES support/FaultyDisk.java
//SOURCES support/FaultyTool.java
//SOURCES support/PowerCut.java
//SOURCES support/SessionBound.java
//SOURCES support/Matrix.java
//SOURCES support/Seeds.java
//SOURCES SeedsTest.java
//SOURCES support/Exploration.java
//SOURCES support/ExploredJob.java
//SOURCES support/ExploredWorld.java
//SOURCES ExplorationTest.java
//SOURCES ProcessTest.java
//SOURCES DocsTest.java
//SOURCES PagesTest.java
//SOURCES ConceptsTest.java
//SOURCES PasteTest.java
//SOURCES support/WholeCommand.java
//SOURCES RecordTest.java
//SOURCES RecordingsTest.java
//SOURCES LookUpTest.java
//SOURCES OutageTest.java
//SOURCES EarlierSessionsTest.java
//SOURCES OptionsTest.java
//SOURCES EngineTest.java
//SOURCES RequireTest.java
//SOURCES AgendaTest.java
//SOURCES RulesTest.java
//SOURCES PaceTest.java
//SOURCES GrowthTest.java
//SOURCES DataTest.java
//SOURCES DifyTest.java
//SOURCES InputTest.java
//SOURCES SentInputsTest.java
//SOURCES BatchTest.java
//SOURCES ServerTest.java
//SOURCES StreamTest.java
//SOURCES TransportTest.java
//SOURCES CommandTest.java
//SOURCES ChatflowTest.java
//SOURCES KindsTest.java
//SOURCES FormTest.java
//SOURCES FormatsTest.java
//SOURCES UserFilesTest.java
//SOURCES ExportsTest.java
//SOURCES FaultTest.java
//SOURCES ForeignResponseTest.java
//SOURCES ConformanceTest.java
//SOURCES support/Recorded.java
//SOURCES ViewsTest.java
//SOURCES CompareTest.java
//SOURCES ShellTest.java
//SOURCES BatchesTest.java
//SOURCES support/FrozenBatch.java
//SOURCES support/FreezeBatches.java
//SOURCES ReadersTest.java
//SOURCES GuardsTest.java
//SOURCES BenchmarksTest.java
//SOURCES ArchiveTest.java
//SOURCES support/Fuzz.java
//SOURCES support/FuzzedTables.java
//SOURCES support/FuzzedWorkbooks.java
//SOURCES support/FuzzedTexts.java
//SOURCES ShardsTest.java
//SOURCES RecipesTest.java
//SOURCES EveryDayTest.java
//SOURCES ForecastTest.java
//SOURCES VerifyTest.java
//SOURCES VersionsTest.java
//SOURCES SimulatorTest.java
//SOURCES MatrixTest.java
//SOURCES NextDifyTest.java
//SOURCES support/Simulator.java
//SOURCES support/SimulatedServer.java
//SOURCES support/SimulatedExchange.java
//SOURCES support/SimulatedRoute.java
//SOURCES support/SimulatedGateway.java
//SOURCES support/SimulatedDify.java
//SOURCES support/SimulatedWorkers.java
//SOURCES support/SimulatedLedger.java
//SOURCES support/SimulatedJob.java
//SOURCES support/SimulatedRun.java
//SOURCES support/SimulatedMessage.java
//SOURCES support/SimulatedModel.java
//SOURCES support/SimulatedTalk.java
//SOURCES support/SimulatedConversations.java
//SOURCES support/SimulatedJson.java
//SOURCES support/SimulatedForm.java
//SOURCES support/SimulatedFiles.java
//SOURCES support/SimulatedGraph.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.3
//DEPS org.junit.platform:junit-platform-launcher:6.1.3
//DEPS org.wiremock:wiremock-standalone:3.13.2
//DEPS de.siegmar:fastcsv:4.3.1
//FILES golden/=golden/*
//FILES DifyExec.java=../DifyExec.java
//FILES recorded/1.9.2/=recorded/1.9.2/*.json
//FILES recorded/1.14.2/=recorded/1.14.2/*.json
//FILES recorded/1.16.0/=recorded/1.16.0/*.json
//FILES recorded/1.16.1/=recorded/1.16.1/*.json
//FILES recorded/sheets/=recorded/sheets/*
//COMPILE_OPTIONS -J-XX:TieredStopAtLevel=1 -J-XX:+UseSerialGC
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:TieredStopAtLevel=1 -XX:+UseSerialGC

package difyexec;

import org.junit.jupiter.api.Nested;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.TagFilter;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;

import java.lang.management.ManagementFactory;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// Runs the tests, those that are slow, or those of the `@Nested` class that is named.
final class DifyExecTest {
    /// Those that take longest or wait most come first, so that the others run beside them. Tests with `@Tag("slow")`,
    /// which take minutes together, run only as `slow`: faults of each kind on each route, whole processes by the
    /// dozen, seeds, the archive.
    static final List<Class<?>> CLASSES = List.of(
            ProcessTest.class, DocsTest.class, PagesTest.class, ConceptsTest.class, ConformanceTest.class, ShellTest.class, SimulatorTest.class,
            StorageTest.class, ArchiveTest.class, FaultTest.class, MatrixTest.class, RecipesTest.class, PasteTest.class,
            ExplorationTest.class, PowerTest.class, SeedsTest.class,
            MapTest.class, MessagesTest.class, OptionsTest.class, EngineTest.class, LookUpTest.class,
            OutageTest.class, RequireTest.class, EarlierSessionsTest.class, AgendaTest.class, RulesTest.class,
            PaceTest.class, GrowthTest.class, DifyTest.class, BatchTest.class, InputTest.class,
            SentInputsTest.class, DataTest.class, ServerTest.class, StreamTest.class, TransportTest.class,
            RecordingsTest.class, CommandTest.class,
            ChatflowTest.class, KindsTest.class, SettingsTest.class, FilesTest.class, FormTest.class, FormatsTest.class,
            ForeignResponseTest.class, ViewsTest.class, CompareTest.class, ShardsTest.class, VerifyTest.class,
            UserFilesTest.class, ExportsTest.class, EveryDayTest.class, ForecastTest.class, VersionsTest.class,
            NextDifyTest.class, BatchesTest.class, RecordTest.class, ReadersTest.class, GuardsTest.class, BenchmarksTest.class);

    /// Runs six files of tests at a time, since many tests wait, and also the methods of a class that allows it
    /// (`@Execution`). A class that measures processor time is `@Isolated`. The time limit is only for tests that hang:
    /// no test may fail because the machine is busy.
    static final Map<String, String> AT_ONCE = Map.of("junit.jupiter.execution.parallel.enabled", "true",
            "junit.jupiter.execution.parallel.mode.classes.default", "concurrent",
            "junit.jupiter.execution.parallel.config.executor-service", "worker_thread_pool",
            "junit.jupiter.execution.parallel.config.strategy", "fixed",
            "junit.jupiter.execution.parallel.config.fixed.parallelism", "6",
            "junit.jupiter.execution.timeout.default", "30 m");

    /// `slow` runs the tests that take minutes. `ResponseJudge TheMap` runs only the `@Nested` classes of these names,
    /// slow or not, and `-Dtest=ResponseJudge` does so, too, before or after the script's name.
    public static void main(String... args) throws Exception {
        if (Files.exists(Path.of("DifyExec.java"))) System.exit(runInOwnFolder(args));
        DifyExec.setProperties();
        var words = new ArrayDeque<String>();
        for (var arg : args) {
            var setting = arg.startsWith("-D") ? arg.substring(2).split("=", 2) : new String[0];
            if (setting.length == 2) System.setProperty(setting[0], setting[1]);
            else words.add(arg);
        }
        if (System.getProperty("test") != null) words.add(System.getProperty("test"));
        boolean isSlow = words.remove("slow");
        var types = words.isEmpty() ? CLASSES : words.stream().flatMap(DifyExecTest::classes).toList();
        var classes = types.stream().map(DiscoverySelectors::selectClass).toList();
        var request = LauncherDiscoveryRequestBuilder.request().selectors(classes).configurationParameters(AT_ONCE);
        if (words.isEmpty()) request.filters(isSlow ? TagFilter.includeTags("slow") : TagFilter.excludeTags("slow"));
        var summary = new SummaryGeneratingListener();
        LauncherFactory.create().execute(request.build(), summary);
        var result = summary.getSummary();
        result.printFailuresTo(new PrintWriter(System.err, true, UTF_8), 10);
        long skipped = result.getTestsSkippedCount() + result.getTestsAbortedCount();
        IO.println(result.getTestsSucceededCount() + " passed, " + result.getTotalFailureCount() + " failed"
                + (skipped == 0 ? "" : ", " + skipped + " skipped"));
        System.exit(result.getTestsFoundCount() > 0 && result.getTotalFailureCount() == 0 ? 0 : 1);
    }

    /// Runs the tests in another process in the folder `tests`. The tool suggests only names that are
    /// free in the current folder, and a user of the checkout may have a `report.html` there.
    private static int runInOwnFolder(String... args) throws IOException, InterruptedException {
        var command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(ManagementFactory.getRuntimeMXBean().getInputArguments());
        var classPath = Stream.of(System.getProperty("java.class.path").split(File.pathSeparator))
                .map(entry -> Path.of(entry).toAbsolutePath().toString()).collect(Collectors.joining(File.pathSeparator));
        command.addAll(List.of("-cp", classPath, DifyExecTest.class.getName()));
        command.addAll(List.of(args));
        return new ProcessBuilder(command).directory(new File("tests")).inheritIO().start().waitFor();
    }

    private static Stream<Class<?>> classes(String name) {
        var found = CLASSES.stream().flatMap(type -> Stream.<Class<?>>of(type.getDeclaredClasses()))
                .filter(inner -> inner.isAnnotationPresent(Nested.class)
                        && inner.getSimpleName().equals(name)).toList();
        if (found.isEmpty()) System.err.println("unknown @Nested class " + name);
        return found.stream();
    }
}
